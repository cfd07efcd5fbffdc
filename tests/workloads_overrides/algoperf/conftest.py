"""A tiny data folder in AlgoPerf's formats and its runner as a program."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

REASON = (
    "needs an installed AlgoPerf (pip install -e '.[jax_cpu,ogbg]' in its checkout)"
)
ROOT = pathlib.Path(__file__).parents[3]
HELPERS = 'tests/workloads_overrides/algoperf'

NUM_GRAPHS = {'train': 80, 'validation': 30, 'test': 30}
NUM_IMAGES = {'train': 60, 'validation': 50, 'test': 20}

# Every second step has new statistics, so that a few steps show all there is.
HYPERPARAMETERS = {
    'approximation': 'reduce',
    'learning_rate': 0.01,
    'one_minus_beta1': 0.1,
    'beta2': 0.95,
    'weight_decay': 0.02,
    'warmup_factor': 0.0,
    'statistics_interval': 2,
    'inverse_interval': 2,
}


@pytest.fixture(autouse=True)
def algoperf():
    """Skips where AlgoPerf is missing."""
    return pytest.importorskip('algoperf', reason=REASON)


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
    """AlgoPerf's data folder with molecules and images, written once."""
    pytest.importorskip('tensorflow_datasets', reason=REASON)
    from workloads_overrides.algoperf_data import images, molecules

    folder = tmp_path_factory.mktemp('data')
    molecules.write(folder, NUM_GRAPHS)
    images.write(folder, NUM_IMAGES, image_size=32)
    return folder


@pytest.fixture
def search_space(tmp_path):
    path = tmp_path / 'search_space.json'
    path.write_text(json.dumps([HYPERPARAMETERS]))
    return path


def data_folder(data_dir, workload, framework):
    """Returns the folder that AlgoPerf's documentation gives a workload."""
    if workload.startswith('imagenet_vit'):
        return data_dir / 'imagenet' / framework
    return data_dir / 'ogbg'


def runner_command(harness, framework, workload, *more, **flags):
    """Returns the command line of one of the two harnesses."""
    module = {
        'stock': 'submission_runner',
        'algoperf': 'workloads_overrides.submission_runner',
        'builtin': 'workloads_overrides.submission_runner',
    }[harness]
    chosen = [] if harness == 'stock' else [f'--harness={harness}']
    flags = {
        'framework': framework,
        'workload': workload,
        'submission_path': f'submission/{framework}_submission.py',
        'experiment_name': 'run',
        'rng_seed': 1,
        **flags,
    }
    pairs = [f'--{name}={value}' for name, value in flags.items()]
    return [sys.executable, '-m', module, *chosen, *pairs, *more]


def run(command):
    """Runs a command to its end and fails with what it printed."""
    # AlgoPerf's runner sets the compiler's flags anew; with those of the tests, this
    # project's would round differently.
    environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-5000:]
    return done.stdout + done.stderr
