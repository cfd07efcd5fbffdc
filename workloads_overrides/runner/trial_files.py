"""The JSON files of a trial, beside its measurements and checkpoints."""

import dataclasses
import os
import pathlib
from typing import Any

from absl import logging

from workloads_overrides.runner import facts
from workloads_overrides.runner.atomic_files import read_json, write_json
from workloads_overrides.runner.checkpoints import checkpoint_paths
from workloads_overrides.runner.config import TrialConfig
from workloads_overrides.runner.errors import RunnerError
from workloads_overrides.runner.frameworks import Framework
from workloads_overrides.runner.search_space import as_hyperparameters

# Flags of AlgoPerf's runner for what this one does not do, at AlgoPerf's defaults, so
# that the record of a run has the same keys under both.
_FLAGS_WITHOUT_EFFECT: dict[str, Any] = {
    'capture_jax_trace': False,
    'librispeech_tokenizer_vocab_path': '',
    'profile': False,
    'pytorch_eval_num_workers': 0,
    'set_pytorch_max_split_size': False,
    'use_wandb': False,
}


_HYPERPARAMETERS_REMEDY = (
    'Put the hyperparameters of the trial back. If they are those of the search space, '
    'delete the file, and it is written again.'
)
_SEED_REMEDY = (
    'Replace its content by {"rng_seed": <seed>} with the rng_seed of result.json, or '
    'start afresh with --overwrite.'
)


def keep_hyperparameters(trial_dir: pathlib.Path, hyperparameters: Any) -> Any:
    """Writes `hparams.json`, or returns what a trial with checkpoints has there.

    Args:
        trial_dir: Folder of the trial.
        hyperparameters: A named tuple, or None under the self-tuning ruleset.

    Raises:
        RunnerError: If the file of a trial with checkpoints is damaged, or the trial
            began under the other ruleset.
    """
    # Without a checkpoint the trial starts anew, so a search space that was corrected
    # after a failed start counts.
    if checkpoint_paths(trial_dir):
        saved = trained_hyperparameters(trial_dir, hyperparameters)
        if saved is not None:
            return saved
    if hyperparameters is not None:
        write_json(trial_dir / 'hparams.json', hyperparameters._asdict())
    return hyperparameters


def trained_hyperparameters(trial_dir: pathlib.Path, hyperparameters: Any) -> Any:
    """Returns what `hparams.json` has, with a warning if that is something else.

    Args:
        trial_dir: Folder of a trial that has been trained, in part or to its end.
        hyperparameters: What it is to be trained with now; None under the self-tuning
            ruleset.

    Returns:
        A named tuple; None if there is no such file.

    Raises:
        RunnerError: If the file is damaged, or there is one under the self-tuning
            ruleset.
    """
    path = trial_dir / 'hparams.json'
    if not path.exists():
        return None
    if hyperparameters is None:
        raise RunnerError(
            f'The trial in {trial_dir} began with hyperparameters of a search space '
            'and cannot go on under the self-tuning ruleset; use '
            '--tuning_ruleset=external, or another --experiment_name.'
        )
    saved = as_hyperparameters(read_json(path, _HYPERPARAMETERS_REMEDY))
    if saved._asdict() != hyperparameters._asdict():
        logging.warning(
            '%s differs from the search space; what counts is the file: %s', path, saved
        )
    return saved


def keep_seed(trial_dir: pathlib.Path, rng_seed: int | None) -> int:
    """Returns the seed of a trial: an earlier process's, the given or a new one.

    Raises:
        RunnerError: If the given seed is not the one that the trial began with, or
            the file that has it is damaged.
    """
    path = trial_dir / 'meta_data_0.json'
    if path.exists():
        content = read_json(path, _SEED_REMEDY)
        if 'rng_seed' not in content:
            raise RunnerError(f'{path} has no rng_seed. {_SEED_REMEDY}')
        saved: int = content['rng_seed']
        if rng_seed is not None and rng_seed != saved:
            raise RunnerError(
                f'The trial in {trial_dir} began with rng_seed {saved}, so it cannot '
                f'go on with {rng_seed}; leave the seed out or use {saved}.'
            )
        return saved
    return int.from_bytes(os.urandom(4), 'little') if rng_seed is None else rng_seed


def write_run_facts(
    trial_dir: pathlib.Path,
    preemption_count: int,
    workload: Any,
    framework: Framework,
    config: TrialConfig,
    rng_seed: int,
) -> None:
    """Writes `meta_data_<preemption>.json` and `flags_<preemption>.json`."""
    write_json(
        trial_dir / f'meta_data_{preemption_count}.json',
        facts.meta_data(workload, framework, rng_seed),
    )
    write_json(
        trial_dir / f'flags_{preemption_count}.json',
        {**_FLAGS_WITHOUT_EFFECT, **dataclasses.asdict(config)},
    )
