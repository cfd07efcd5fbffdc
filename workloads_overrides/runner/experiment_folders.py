"""Where the files of an experiment go, and what happens to earlier ones."""

import datetime
import pathlib
import shutil
from collections.abc import Sequence

from absl import logging

from workloads_overrides.runner.config import StudyConfig
from workloads_overrides.runner.errors import RunnerError


def workload_folder(config: StudyConfig) -> pathlib.Path:
    """Returns the folder that holds the trials of a study on one workload."""
    name = config.experiment_name
    if config.append_timestamp:
        name += datetime.datetime.now().strftime('-%Y-%m-%d-%H-%M-%S')
    folder = pathlib.Path(config.experiment_dir).expanduser().absolute() / name
    if config.study is not None:
        folder /= f'study_{config.study}'
    return folder / f'{config.workload}_{config.framework}'


def prepare_trial_folders(
    config: StudyConfig, trial_numbers: Sequence[int]
) -> list[pathlib.Path]:
    """Creates the folders of the trials and returns them.

    When only some points of the search space are trained, only their folders are
    looked at, so that several processes can share the trials of one study.

    Args:
        config: Says whether to overwrite or to resume.
        trial_numbers: The trials to run, counted from 1.

    Raises:
        RunnerError: If the experiment exists and `config` says neither, or a folder
            cannot be made.
    """
    folder = workload_folder(config)
    trials = [folder / f'trial_{number}' for number in trial_numbers]
    is_slice = config.hparam_start_index is not None or (
        config.hparam_end_index is not None
    )
    existing = [path for path in (trials if is_slice else [folder]) if path.exists()]
    if existing and config.overwrite:
        for path in existing:
            logging.info('Deleting %s, because overwrite is set.', path)
            shutil.rmtree(path)
    elif existing and not config.resume_last_run:
        raise RunnerError(
            f'There are files of an earlier run in {existing[0]}. Use '
            '--resume_last_run to go on with it, --overwrite to delete it, or '
            'another --experiment_name.'
        )
    for path in trials:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunnerError(
                f'The folder {path} cannot be made ({error.strerror}); give another '
                '--experiment_dir.'
            ) from error
    return trials
