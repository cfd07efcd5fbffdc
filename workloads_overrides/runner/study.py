"""Runs a submission on a workload: all trials of one study."""

import os
from collections.abc import Mapping
from typing import Any

from absl import logging

from workloads_overrides import registry
from workloads_overrides.runner import frameworks
from workloads_overrides.runner.config import StudyConfig
from workloads_overrides.runner.errors import RunnerError
from workloads_overrides.runner.experiment_folders import prepare_trial_folders
from workloads_overrides.runner.results import TrialResult
from workloads_overrides.runner.search_space import load_search_space
from workloads_overrides.runner.submission_framework import check_framework
from workloads_overrides.runner.submission_functions import (
    SubmissionFunctions,
    load_submission,
)
from workloads_overrides.runner.training_loop import run_trial


def run_study(config: StudyConfig) -> list[TrialResult]:
    """Trains the trials that a configuration asks for, one after another.

    Args:
        config: What to train and where the files go.

    Returns:
        The outcomes in the order of the trials.

    Raises:
        RunnerError: If the configuration, or a file that it names, is wrong.
    """
    # Mistakes have to show before any folder is made or deleted.
    workload_class = registry.workload_class(config.workload, config.framework)
    if config.num_threads is not None:
        frameworks.load(config.framework).set_num_threads(config.num_threads)
    check_framework(config.submission_path, config.framework)
    submission = load_submission(config.submission_path)
    points = _numbered_points(config)
    _check_with_submission(submission, points, config)
    _check_data(workload_class, config)
    folders = prepare_trial_folders(config, list(points))

    outcomes = []
    for (number, hyperparameters), folder in zip(points.items(), folders, strict=True):
        logging.info('Trial %d in %s: %s', number, folder, hyperparameters)
        result = run_trial(
            # A new one for each trial, so that a trial is the same alone.
            registry.load_workload(config.workload, config.framework),
            config.workload,
            submission,
            hyperparameters,
            config,
            folder,
            config.rng_seed,
        )
        logging.info('Trial %d has ended: %s', number, result)
        outcomes.append(result)
    return outcomes


def _numbered_points(config: StudyConfig) -> dict[int, Any]:
    """Returns trial number to hyperparameters; numbers count from 1."""
    if config.tuning_search_space is None:
        return {1: None}
    points = load_search_space(
        os.path.expanduser(config.tuning_search_space), config.num_tuning_trials
    )
    chosen = list(enumerate(points, start=1))[
        config.hparam_start_index : config.hparam_end_index
    ]
    if not chosen:
        raise RunnerError(
            f'hparam_start_index {config.hparam_start_index} and hparam_end_index '
            f'{config.hparam_end_index} leave none of the {len(points)} point(s) of '
            f'{config.tuning_search_space}; indices count from 0 and the end is not '
            'included.'
        )
    return dict(chosen)


def _check_with_submission(
    submission: SubmissionFunctions, points: Mapping[int, Any], config: StudyConfig
) -> None:
    """Asks the submission whether it can train the workload at all the points."""
    try:
        submission.batch_size(config.workload)
    except ValueError as error:
        raise RunnerError(
            f'submission_path {config.submission_path}: get_batch_size does not know '
            f'the workload {config.workload!r}: {error}'
        ) from error
    if submission.validate_hyperparameters is None:
        return
    for number, hyperparameters in points.items():
        if hyperparameters is None:
            # The submission's own choice.
            continue
        try:
            submission.validate_hyperparameters(hyperparameters)
        except (ValueError, TypeError) as error:
            raise RunnerError(
                f'Search space {config.tuning_search_space}, point {number - 1}: '
                f'{error}'
            ) from error


def _check_data(workload_class: Any, config: StudyConfig) -> None:
    try:
        workload_class.check_data(config.data_dir)
    except (OSError, ValueError) as error:
        raise RunnerError(f'Data of {config.workload}: {error}') from error
