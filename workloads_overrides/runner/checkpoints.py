"""Checkpoints of a training run: written whole or not at all, checked when read.

A checkpoint has the content of AlgoPerf's, and this runner's own under the key
`runner_state`.
"""

import dataclasses
import pathlib
import re
import zipfile
import zlib

from absl import logging

from workloads_overrides.runner.atomic_files import atomic_writer
from workloads_overrides.runner.errors import RunnerError
from workloads_overrides.runner.frameworks import Framework
from workloads_overrides.runner.state import RunnerState, TrainingState

_NAME = re.compile(r'checkpoint_(\d+)')


def save_checkpoint(
    framework: Framework,
    trial_dir: pathlib.Path,
    state: TrainingState,
    runner_state: RunnerState,
    keep_older: bool = True,
) -> None:
    """Writes `checkpoint_<global_step>`.

    Args:
        framework: Framework of the state.
        trial_dir: Folder of the trial.
        state: The training run.
        runner_state: What the runner itself needs to go on.
        keep_older: Whether earlier checkpoints stay; they are deleted only when
            the new one is in place.
    """
    content = {
        **framework.contents(state),
        'train_state': state.train_state,
        'eval_results': tuple(state.eval_results),
        'global_step': state.global_step,
        'preemption_count': state.preemption_count,
        'runner_state': dataclasses.asdict(runner_state),
    }
    path = trial_dir / f'checkpoint_{state.global_step}'
    with atomic_writer(path, 'wb') as file:
        framework.write(content, file)
    if not keep_older:
        for older in checkpoint_paths(trial_dir):
            if older != path:
                older.unlink()


def restore_checkpoint(
    framework: Framework, trial_dir: pathlib.Path, state: TrainingState
) -> RunnerState | None:
    """Puts the newest intact checkpoint's content into a freshly made state.

    Args:
        framework: Framework of the state.
        trial_dir: Folder of the trial.
        state: The state at the start of the run; changed in place.

    Returns:
        The runner's own state, or None if there is no checkpoint; then `state` is
        left as it is.

    Raises:
        RunnerError: If all checkpoints are damaged, or the newest intact one belongs
            to another runner or to another model or submission.
    """
    damaged = []
    for path in checkpoint_paths(trial_dir):
        damage = _damage(path)
        if damage is not None:
            logging.warning(
                '%s is damaged (%s); looking for the one before.', path, damage
            )
            damaged.append(f'{path.name} ({damage})')
            continue
        runner_state = _load(framework, path, state)
        logging.info('Restored %s.', path)
        return runner_state
    if damaged:
        # Starting again at step 0 would replace the measurements of the run so far.
        raise RunnerError(
            f'All checkpoints in {trial_dir} are damaged: {", ".join(damaged)}. Put '
            'back a copy of one to go on from it. --overwrite deletes the experiment '
            'and starts afresh; to start only this trial afresh, delete its folder.'
        )
    return None


def checkpoint_paths(trial_dir: pathlib.Path) -> list[pathlib.Path]:
    """Returns the checkpoints of a folder, intact or not, the newest first."""
    steps = {
        int(match[1]): path
        for path in trial_dir.iterdir()
        if (match := _NAME.fullmatch(path.name))
    }
    return [steps[step] for step in sorted(steps, reverse=True)]


def _damage(path: pathlib.Path) -> str | None:
    """Returns what is wrong with the file of a checkpoint, None if nothing is."""
    # A checkpoint is a zip archive with checksums. Checking them tells a damaged
    # file from one that cannot be loaded for a reason worth an error.
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        # For sizes, names and flags that make no sense.
        RuntimeError,
        ValueError,
    ) as error:
        return str(error) or type(error).__name__
    return None if member is None else f'wrong checksum of {member}'


def _load(
    framework: Framework, path: pathlib.Path, state: TrainingState
) -> RunnerState:
    with path.open('rb') as file:
        content = framework.read(file)
    if 'runner_state' not in content:
        raise RunnerError(f'{path} was not written by this runner; cannot resume.')
    try:
        framework.put_back(content, state)
    except RunnerError as error:
        raise RunnerError(f'Cannot resume from {path}. {error}') from error
    state.train_state = content['train_state']
    state.eval_results = [(step, metrics) for step, metrics in content['eval_results']]
    state.global_step = content['global_step']
    state.preemption_count = content['preemption_count'] + 1
    saved = content['runner_state']
    # A format may have no tuples, and the rows are compared with a tuple.
    return RunnerState(**{**saved, 'rows': tuple(saved['rows'])})
