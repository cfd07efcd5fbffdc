r"""Trains a submission on a workload, with AlgoPerf's flags and files.

Example::

    python -m workloads_overrides.submission_runner \
        --framework=pytorch \
        --workload=ogbg_chembl \
        --submission_path=submission/pytorch_submission.py \
        --tuning_search_space=tuning_search_space.json \
        --experiment_dir=$HOME/experiments \
        --experiment_name=first
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags, logging

from workloads_overrides import registry
from workloads_overrides.harness_choice import hand_over_if_asked
from workloads_overrides.runner.config import StudyConfig
from workloads_overrides.runner.errors import RunnerError
from workloads_overrides.runner.study import run_study

_REQUIRED = (
    'framework',
    'workload',
    'submission_path',
    'experiment_dir',
    'experiment_name',
)

flags.DEFINE_enum(
    'harness',
    'builtin',
    ['builtin', 'algoperf'],
    "This project's training loop, or AlgoPerf's own, where it is installed; with "
    "algoperf all other flags are AlgoPerf's.",
)
flags.DEFINE_enum(
    'framework', None, ['pytorch', 'jax'], 'Framework the submission is written in.'
)
flags.DEFINE_string(
    'workload', None, f'Workload to train: {", ".join(registry.WORKLOADS)}.'
)
flags.DEFINE_string(
    'submission_path',
    None,
    'Python file with the submission functions, inside the working directory.',
)
flags.DEFINE_enum(
    'tuning_ruleset',
    'external',
    ['external', 'self'],
    'Hyperparameters from a search space, or chosen by the submission itself.',
)
flags.DEFINE_string(
    'tuning_search_space', None, 'JSON file of the search space (external ruleset).'
)
flags.DEFINE_integer('num_tuning_trials', 1, 'Points of the search space to train.')
flags.DEFINE_integer('hparam_start_index', None, 'First point to train, from 0.')
flags.DEFINE_integer('hparam_end_index', None, 'Point before which to stop.')
flags.DEFINE_string('data_dir', None, 'Data folder, for workloads that need one.')
flags.DEFINE_string('imagenet_v2_data_dir', None, 'Folder of ImageNet-v2, if needed.')
flags.DEFINE_string('experiment_dir', None, 'Folder that holds all experiments.')
flags.DEFINE_string('experiment_name', None, 'Folder of this experiment in there.')
flags.DEFINE_boolean(
    'append_timestamp', False, 'Append the date and time to the experiment name.'
)
flags.DEFINE_integer(
    'study', None, 'Number of the study; puts the files under study_<number>.'
)
flags.DEFINE_boolean('overwrite', False, 'Delete an existing experiment first.')
flags.DEFINE_boolean('resume_last_run', False, 'Go on with an existing experiment.')
flags.DEFINE_boolean('save_checkpoints', True, 'Write checkpoints.')
flags.DEFINE_boolean(
    'save_intermediate_checkpoints', True, 'Keep all checkpoints, not only the last.'
)
flags.DEFINE_integer(
    'checkpoint_every_steps',
    None,
    'Write a checkpoint at each multiple of this step count instead of at each '
    'evaluation.',
)
flags.DEFINE_integer('max_global_steps', None, 'Steps after which training ends.')
flags.DEFINE_boolean(
    'stop_at_targets', True, 'End training when the metric targets are reached.'
)
flags.DEFINE_boolean(
    'validation_only',
    False,
    'Evaluate the validation split alone; its target is then the only one.',
)
flags.DEFINE_boolean(
    'limit_time', True, "End training after the workload's max_allowed_runtime_sec."
)
flags.DEFINE_integer(
    'eval_every_steps',
    None,
    'Evaluate at each multiple of this step count instead of by the seconds since '
    'the last evaluation.',
)
flags.DEFINE_boolean('skip_evals', False, 'Train without evaluations.')
flags.DEFINE_integer('rng_seed', None, 'Seed of each trial; a random one if not set.')
flags.DEFINE_integer('num_threads', None, 'Threads within an operation on the CPU.')
flags.DEFINE_boolean(
    'torch_compile',
    False,
    'Compile the model with torch.compile. Off unless asked for, since AlgoPerf '
    'does not compile the workloads that the ones here stand in for.',
)


def main(argv: Sequence[str]) -> None:
    """Runs the study that the flags describe."""
    if len(argv) > 1:
        raise app.UsageError(f'Not a flag: {argv[1:]}')
    if not flags.FLAGS['verbosity'].present:
        logging.set_verbosity(logging.INFO)
    values: dict[str, Any] = {
        field.name: flags.FLAGS[field.name].value
        for field in dataclasses.fields(StudyConfig)
    }
    try:
        run_study(StudyConfig(**values))
    except RunnerError as error:
        # A mistake in the command or its files: the message says all there is.
        sys.exit(f'Error: {error}')


if __name__ == '__main__':
    hand_over_if_asked(sys.argv[1:])
    for required in _REQUIRED:
        flags.mark_flag_as_required(required)
    app.run(main)
