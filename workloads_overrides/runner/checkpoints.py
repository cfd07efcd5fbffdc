"""Checkpoints of a training run: written whole or not at all, checked when read.

A checkpoint has the content of AlgoPerf's, and this runner's own under the key
`runner_state`.
"""

import dataclasses
import pathlib
import re
import zipfile
from typing import Any

import torch
from absl import logging

from workloads_overrides.runner.atomic_files import atomic_writer
from workloads_overrides.runner.errors import RunnerError
from workloads_overrides.runner.state import RunnerState, TrainingState

_NAME = re.compile(r'checkpoint_(\d+)')


def save_checkpoint(
    trial_dir: pathlib.Path,
    state: TrainingState,
    runner_state: RunnerState,
    keep_older: bool = True,
) -> None:
    """Writes `checkpoint_<global_step>`.

    Args:
        trial_dir: Folder of the trial.
        state: The training run.
        runner_state: What the runner itself needs to go on.
        keep_older: Whether earlier checkpoints stay; they are deleted only when
            the new one is in place.
    """
    content = {
        'model_params': _unwrapped(state.model_params).state_dict(),
        'optimizer_state': {
            key: value.state_dict()
            for key, value in state.optimizer_state.items()
            if hasattr(value, 'state_dict')
        },
        'model_state': state.model_state,
        'train_state': state.train_state,
        'eval_results': tuple(state.eval_results),
        'global_step': state.global_step,
        'preemption_count': state.preemption_count,
        'runner_state': dataclasses.asdict(runner_state),
    }
    path = trial_dir / f'checkpoint_{state.global_step}'
    with atomic_writer(path, 'wb') as file:
        torch.save(content, file)
    if not keep_older:
        for older in _checkpoints(trial_dir):
            if older != path:
                older.unlink()


def restore_checkpoint(
    trial_dir: pathlib.Path, state: TrainingState
) -> RunnerState | None:
    """Puts the newest intact checkpoint's content into a freshly made state.

    Args:
        trial_dir: Folder of the trial.
        state: The state at the start of the run; changed in place.

    Returns:
        The runner's own state, or None if there is no intact checkpoint; then
        `state` is left as it is.
    """
    for path in _checkpoints(trial_dir):
        if not _is_intact(path):
            logging.warning('%s is damaged; looking for the one before.', path)
            continue
        content = torch.load(
            path,
            weights_only=True,
            # Without a GPU nothing can be put back on one; else all stays put.
            map_location=None if torch.cuda.is_available() else 'cpu',
        )
        _load_content(content, state, path)
        logging.info('Restored %s.', path)
        return RunnerState(**content['runner_state'])
    return None


def warn_of_unsaved_state(optimizer_state: Any) -> None:
    """Warns of parts of an optimiser state that a checkpoint cannot hold."""
    for key, value in optimizer_state.items():
        if not hasattr(value, 'state_dict'):
            logging.warning(
                'optimizer_state[%r] (%s) has no state_dict() and is not saved, so '
                'this run cannot be resumed.',
                key,
                type(value).__name__,
            )


def _checkpoints(trial_dir: pathlib.Path) -> list[pathlib.Path]:
    """Returns the checkpoints of a folder, the newest first."""
    steps = {
        int(match[1]): path
        for path in trial_dir.iterdir()
        if (match := _NAME.fullmatch(path.name))
    }
    return [steps[step] for step in sorted(steps, reverse=True)]


def _is_intact(path: pathlib.Path) -> bool:
    # A checkpoint is a zip archive with checksums. Checking them tells a damaged
    # file from one that cannot be loaded for a reason worth an error.
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, EOFError):
        return False


def _load_content(
    content: dict[str, Any], state: TrainingState, path: pathlib.Path
) -> None:
    if 'runner_state' not in content:
        raise RunnerError(f'{path} was not written by this runner; cannot resume.')
    saved, present = content['optimizer_state'], state.optimizer_state
    if saved.keys() != present.keys():
        raise RunnerError(
            f'{path} holds the optimiser state {sorted(saved)}, but the submission '
            f'now has {sorted(present)}; cannot resume.'
        )
    _unwrapped(state.model_params).load_state_dict(content['model_params'])
    for key, value in saved.items():
        present[key].load_state_dict(value)
    state.model_state = content['model_state']
    state.train_state = content['train_state']
    state.eval_results = list(content['eval_results'])
    state.global_step = content['global_step']
    state.preemption_count = content['preemption_count'] + 1


def _unwrapped(model: Any) -> Any:
    wrappers = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    return model.module if isinstance(model, wrappers) else model
