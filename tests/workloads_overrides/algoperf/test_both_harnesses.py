"""One trial under AlgoPerf's loop and under this project's."""

import csv
import functools
import json
import math
import sys

import pytest

from tests.workloads_overrides.algoperf.conftest import REASON, run, runner_command

pytest.importorskip('algoperf', reason=REASON)
pytestmark = pytest.mark.algoperf

NUM_STEPS = 3
TIMES = ('score', 'total_duration', '_time')


def table(path):
    with open(path, newline='') as file:
        reader = csv.DictReader(file)
        return list(reader), reader.fieldnames


def json_keys(path):
    return set(json.loads(path.read_text()))


def json_types(path):
    return {name: type(value) for name, value in json.loads(path.read_text()).items()}


@functools.cache
def algoperf_flags():
    """Returns the names of the flags that AlgoPerf's runner defines.

    In a process of its own: the flags of this project's runner have the same names.
    """
    script = (
        'import json, submission_runner; from absl import flags; own = flags.FLAGS.'
        'get_key_flags_for_module(submission_runner); '
        "print('flags', json.dumps([flag.name for flag in own]))"
    )
    lines = run([sys.executable, '-c', script]).splitlines()
    (line,) = [line for line in lines if line.startswith('flags ')]
    return set(json.loads(line.removeprefix('flags ')))


def assert_equal_rows(ours, theirs):
    """Compares the rows of the steps at which both evaluated.

    A step that takes longer than the period between evaluations, for which a busy
    machine is enough, is followed by one more.
    """
    our_rows, their_rows = (
        {int(row['global_step']): row for row in rows} for rows in (ours, theirs)
    )
    common = our_rows.keys() & their_rows.keys()
    assert {1, NUM_STEPS} <= common
    for step in common:
        our_row = our_rows[step]
        for name, expected in their_rows[step].items():
            if name.endswith(TIMES):
                assert bool(our_row[name]) == bool(expected), name
            elif expected == '':
                assert our_row[name] == '', name
            else:
                # AlgoPerf reads the file back for each row and may lose a digit.
                assert math.isclose(
                    float(our_row[name]), float(expected), rel_tol=1e-12
                ), (name, our_row[name], expected)


@pytest.fixture
def trials(tmp_path, search_space):
    """Runs a trial under both harnesses and returns its two folders."""

    def train(workload, framework):
        folders = {}
        for harness in ('algoperf', 'builtin'):
            command = runner_command(
                harness,
                framework,
                workload,
                # AlgoPerf compiles the loss of ogbg, which rounds differently.
                '--notorch_compile',
                tuning_search_space=search_space,
                experiment_dir=tmp_path / harness,
                max_global_steps=NUM_STEPS,
            )
            run(command)
            folders[harness] = (
                tmp_path / harness / 'run' / f'{workload}_{framework}' / 'trial_1'
            )
        return folders['algoperf'], folders['builtin']

    return train


@pytest.mark.parametrize('framework', ['pytorch', 'jax'])
@pytest.mark.parametrize('workload', ['imagenet_vit_fashion_mnist', 'ogbg_chembl'])
def test_losses_metrics_and_files_are_equal(trials, workload, framework):
    theirs, ours = trials(workload, framework)

    # Logs of the libraries: TensorBoard's events there, the trial's outcome here.
    names = {path.name for path in theirs.iterdir()}
    names = {name for name in names if not name.startswith('events.out.tfevents')}
    assert {path.name for path in ours.iterdir()} - {'result.json'} == names

    for name in ('measurements.csv', 'eval_measurements.csv'):
        our_rows, our_columns = table(ours / name)
        their_rows, their_columns = table(theirs / name)
        assert our_columns == their_columns
        assert_equal_rows(our_rows, their_rows)

    hyperparameters = (theirs / 'hparams.json').read_text()
    assert json.loads((ours / 'hparams.json').read_text()) == json.loads(
        hyperparameters
    )
    facts = json_types(theirs / 'meta_data_0.json')
    assert facts.items() <= json_types(ours / 'meta_data_0.json').items()

    own_names = algoperf_flags()
    assert 'submission_path' in own_names
    assert own_names <= json_keys(theirs / 'flags_0.json')
    assert own_names <= json_keys(ours / 'flags_0.json')


@pytest.mark.parametrize('workload', ['imagenet_vit_fashion_mnist', 'ogbg_chembl'])
def test_parameters_and_all_state_are_equal_after_the_last_step(trials, workload):
    import torch

    from tests.workloads_overrides.algoperf.test_checkpoints import (
        assert_same_bits,
        flattened,
    )

    theirs, ours = (
        torch.load(folder / f'checkpoint_{NUM_STEPS}', weights_only=True)
        for folder in trials(workload, 'pytorch')
    )
    for part in ('model_params', 'optimizer_state'):
        assert_same_bits(flattened(ours[part]), flattened(theirs[part]))
