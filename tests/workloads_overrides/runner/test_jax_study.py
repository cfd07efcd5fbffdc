import csv
import json
import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from tests.workloads_overrides.runner import fake_jax_submission, jax_fakes
from tests.workloads_overrides.runner.test_resume import (
    KilledError,
    assert_same,
    die_at,
    steps_in,
    wait_for_rows,
)
from workloads_overrides import registry
from workloads_overrides.runner import atomic_files, clock
from workloads_overrides.runner.errors import RunnerError
from workloads_overrides.runner.jax_framework import JaxFramework
from workloads_overrides.runner.results import read_result
from workloads_overrides.runner.study import run_study


@pytest.fixture(scope='module', autouse=True)
def fake_flax():
    with pytest.MonkeyPatch.context() as patch:
        for name, entry in jax_fakes.ENTRIES.items():
            patch.setitem(registry.WORKLOADS, name, entry)
        yield


def trial(folder):
    return folder / 'experiment' / 'fake_flax_jax' / 'trial_1'


def content_of(folder, step):
    with open(trial(folder) / f'checkpoint_{step}', 'rb') as file:
        return JaxFramework().read(file)


def plain(value):
    """Arrays as bytes, which `==` compares bit for bit."""
    return jax.tree.map(
        lambda x: (x.dtype.name, x.tobytes()) if isinstance(x, np.ndarray) else x, value
    )


def assert_same_runs(folder, expected, steps):
    left, right = content_of(folder, steps), content_of(expected, steps)
    for content in (left, right):
        content['runner_state'].pop('compilations')
    for key in ('model_params', 'optimizer_state', 'runner_state', 'global_step'):
        assert_same(plain(left[key]), plain(right[key]))
    for name in ('measurements.csv', 'eval_measurements.csv'):
        assert steps_in(trial(folder) / name) == steps_in(trial(expected) / name)


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp('uninterrupted')
    # So that this study has something to compile, whatever ran before.
    fake_jax_submission.STEPS.clear()
    run_study(jax_fakes.study_config(folder))
    return folder


def test_files_and_columns(uninterrupted):
    with open(trial(uninterrupted) / 'measurements.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['loss'] != '' for row in rows[:3]] == [True, True, False]
    facts = json.loads((trial(uninterrupted) / 'meta_data_0.json').read_text())
    assert facts['jax_version'] == jax.__version__
    assert 'torch_version' not in facts
    assert facts['device_count'] == jax.device_count()


def test_training_changes_the_parameters_and_seeds_differ(uninterrupted, tmp_path):
    steps = [plain(content_of(uninterrupted, step)) for step in (3, 6)]
    assert steps[0]['model_params'] != steps[1]['model_params']
    run_study(jax_fakes.study_config(tmp_path, max_global_steps=3, rng_seed=8))
    assert plain(content_of(tmp_path, 3))['model_params'] != steps[0]['model_params']


def test_compilation_is_noted_and_not_in_the_seconds_a_step(uninterrupted):
    result = read_result(trial(uninterrupted))
    steps, seconds = zip(*result.compilations, strict=True)
    assert steps[0] == 1
    total = sum(seconds)
    assert 0 < total < result.submission_seconds
    assert result.seconds_per_step == pytest.approx(
        (result.submission_seconds - total) / 12
    )


PLACES = {
    'clock': (clock, 'now'),
    'checkpoint writing': (JaxFramework, 'write'),
    'file replacing': (atomic_files.os, 'replace'),
    'file writing': (atomic_files.os, 'fsync'),
}


@pytest.mark.parametrize('place', sorted(PLACES))
@pytest.mark.parametrize(('call', 'checkpoint_every_steps'), [(1, None), (3, 2)])
def test_ending_anywhere_and_going_on_changes_nothing(
    uninterrupted, tmp_path, place, call, checkpoint_every_steps
):
    config = jax_fakes.study_config(
        tmp_path, resume_last_run=True, checkpoint_every_steps=checkpoint_every_steps
    )
    with pytest.MonkeyPatch.context() as patch:
        die_at(patch, PLACES[place], call * (10 if place == 'clock' else 1))
        with pytest.raises(KilledError):
            run_study(config)
    np.random.seed(random.randrange(2**32))
    run_study(config)
    assert_same_runs(tmp_path, uninterrupted, 12)


def test_killed_process_goes_on_bit_for_bit(tmp_path):
    steps = 150
    expected, folder = tmp_path / 'expected', tmp_path / 'killed'
    run_study(
        jax_fakes.study_config(
            expected, max_global_steps=steps, save_intermediate_checkpoints=False
        )
    )
    process = subprocess.Popen(
        [
            sys.executable,
            '-m',
            'tests.workloads_overrides.runner.killable_study',
            str(folder),
            str(steps),
            'jax',
        ],
        stderr=subprocess.PIPE,
    )
    wait_for_rows(trial(folder) / 'measurements.csv', 30, process)
    time.sleep(random.random() * 0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (trial(folder) / f'checkpoint_{steps}').exists()
    run_study(
        jax_fakes.study_config(folder, max_global_steps=steps, resume_last_run=True)
    )
    assert (trial(folder) / 'meta_data_1.json').exists()
    assert_same_runs(folder, expected, steps)


def test_resuming_compiles_the_step_once(tmp_path):
    for steps in (3, 6):
        fake_jax_submission.STEPS.clear()
        run_study(
            jax_fakes.study_config(
                tmp_path, max_global_steps=steps, resume_last_run=True
            )
        )
        (compiled,) = fake_jax_submission.STEPS.values()
        assert compiled._cache_size() == 1


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'workload': 'fake'}, "'fake' has no implementation for framework 'jax'"),
        ({'torch_compile': True}, r'--torch_compile is for --framework=pytorch'),
        (
            {'submission_path': 'tests/workloads_overrides/runner/fake_submission.py'},
            r'imports torch and not jax',
        ),
        ({}, r'init_optimizer_state must return a pair'),
    ],
)
def test_mistakes(tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(
        fake_jax_submission, 'init_optimizer_state', lambda *arguments: {'step': 0}
    )
    with pytest.raises(RunnerError, match=message):
        run_study(jax_fakes.study_config(tmp_path, **changes))
