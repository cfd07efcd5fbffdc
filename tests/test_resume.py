"""A killed K-FAC run, resumed, gives the parameters of the uninterrupted one."""

import json
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

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
}


def command(folder, name, *extra):
    search_space = folder / 'space.json'
    search_space.write_text(json.dumps([POINT]))
    return [
        sys.executable,
        '-m',
        'workloads_overrides.submission_runner',
        '--framework=pytorch',
        '--workload=imagenet_vit_fashion_mnist',
        '--submission_path=submission/pytorch_submission.py',
        f'--tuning_search_space={search_space}',
        f'--experiment_dir={folder}',
        f'--experiment_name={name}',
        f'--max_global_steps={STEPS}',
        f'--eval_every_steps={STEPS}',
        '--checkpoint_every_steps=5',
        '--rng_seed=7',
        '--num_threads=1',
        *extra,
    ]


def newest_checkpoint(folder, name):
    trial = folder / name / 'imagenet_vit_fashion_mnist_pytorch' / 'trial_1'
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


def test_killed_and_resumed_run_equals_the_uninterrupted_one(tmp_path):
    whole = subprocess.run(
        command(tmp_path, 'whole'), cwd=ROOT, capture_output=True, text=True
    )
    assert whole.returncode == 0, whole.stderr[-2000:]

    process = subprocess.Popen(
        command(tmp_path, 'killed'),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while newest_checkpoint(tmp_path, 'killed') is None:
        assert process.poll() is None, 'ended before its first checkpoint'
        assert time.monotonic() < deadline, 'no checkpoint within two minutes'
        time.sleep(0.02)
    time.sleep(random.uniform(0.0, 0.8))
    process.send_signal(signal.SIGKILL)
    process.wait()
    if newest_checkpoint(tmp_path, 'killed').name == f'checkpoint_{STEPS}':
        pytest.skip('the run ended before it was killed')

    resumed = subprocess.run(
        command(tmp_path, 'killed', '--resume_last_run'),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert resumed.returncode == 0, resumed.stderr[-2000:]

    states = [
        torch.load(newest_checkpoint(tmp_path, name), weights_only=True)
        for name in ('whole', 'killed')
    ]
    for part in ('model_params', 'optimizer_state'):
        expected, found = (dict(flatten(state[part])) for state in states)
        assert expected.keys() == found.keys()
        assert (
            any('moving_average' in key for key in expected) or part == 'model_params'
        )
        for key, value in expected.items():
            if torch.is_tensor(value):
                assert torch.equal(value, found[key]), key
            else:
                assert value == found[key], key
