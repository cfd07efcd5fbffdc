"""A killed K-FAC run, resumed, gives the parameters of the uninterrupted one."""

import json
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from workloads_overrides.runner import frameworks

ROOT = pathlib.Path(__file__).parent.parent
STEPS = 24
POINT = {
    'approximation': 'expand',
    'learning_rate': 1e-2,
    'one_minus_beta1': 0.1,
    'beta2': 0.95,
    'weight_decay': 0.01,
    'warmup_factor': 0.05,
    'dropout_rate': 0.1,
    # Neither divides the other, nor the checkpoint interval, so that the kill falls
    # between statistics, inverses and checkpoints in every order.
    'statistics_interval': 3,
    'inverse_interval': 4,
    'averaging_power': 8.0,
}


def command(framework, folder, name, *extra):
    search_space = folder / 'space.json'
    search_space.write_text(json.dumps([POINT]))
    return [
        sys.executable,
        '-m',
        'workloads_overrides.submission_runner',
        f'--framework={framework}',
        '--workload=imagenet_vit_fashion_mnist',
        f'--submission_path=submission/{framework}_submission.py',
        f'--tuning_search_space={search_space}',
        f'--experiment_dir={folder}',
        f'--experiment_name={name}',
        f'--max_global_steps={STEPS}',
        # Some checkpoints hold the averaged parameters, others those of training.
        '--eval_every_steps=10',
        '--checkpoint_every_steps=5',
        '--rng_seed=7',
        '--num_threads=1',
        *extra,
    ]


def newest_checkpoint(framework, folder, name):
    trial = folder / name / f'imagenet_vit_fashion_mnist_{framework}' / 'trial_1'
    checkpoints = {
        int(path.name.split('_')[1]): path for path in trial.glob('checkpoint_*[0-9]')
    }
    return checkpoints[max(checkpoints)] if checkpoints else None


def flatten(value, prefix=''):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flatten(inner, f'{prefix}/{key}')
    else:
        yield prefix, value


# Three processes, each of which evaluates on all splits, and in JAX compiles first.
@pytest.mark.slow
@pytest.mark.parametrize('framework', ['pytorch', 'jax'])
def test_killed_and_resumed_run_equals_the_uninterrupted_one(tmp_path, framework):
    whole = subprocess.run(
        command(framework, tmp_path, 'whole'), cwd=ROOT, capture_output=True, text=True
    )
    assert whole.returncode == 0, whole.stderr[-2000:]

    process = subprocess.Popen(
        command(framework, tmp_path, 'killed'),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while newest_checkpoint(framework, tmp_path, 'killed') is None:
        assert process.poll() is None, 'ended before its first checkpoint'
        assert time.monotonic() < deadline, 'no checkpoint within five minutes'
        time.sleep(0.02)
    time.sleep(random.uniform(0.0, 0.8))
    process.send_signal(signal.SIGKILL)
    process.wait()
    if newest_checkpoint(framework, tmp_path, 'killed').name == f'checkpoint_{STEPS}':
        pytest.skip('the run ended before it was killed')

    resumed = subprocess.run(
        command(framework, tmp_path, 'killed', '--resume_last_run'),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert resumed.returncode == 0, resumed.stderr[-2000:]

    states = []
    for name in ('whole', 'killed'):
        with newest_checkpoint(framework, tmp_path, name).open('rb') as file:
            states.append(frameworks.load(framework).read(file))
    for part in ('model_params', 'optimizer_state'):
        expected, found = (dict(flatten(state[part])) for state in states)
        assert expected.keys() == found.keys()
        if part == 'optimizer_state':
            assert any('moving_average' in key for key in expected)
        for key, value in expected.items():
            if torch.is_tensor(value):
                assert torch.equal(value, found[key]), key
            elif isinstance(value, np.ndarray):
                assert value.dtype == found[key].dtype, key
                assert value.tobytes() == found[key].tobytes(), key
            else:
                assert value == found[key], key
