import csv
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workloads_overrides.runner import fakes
from workloads_overrides.runner import atomic_files, clock
from workloads_overrides.runner.errors import RunnerError
from workloads_overrides.runner.results import read_result
from workloads_overrides.runner.study import run_study

STEPS = 12


def trial(folder):
    return folder / 'experiment' / 'fake_pytorch' / 'trial_1'


def steps_in(path):
    """Returns each row's step and which columns but the times have a value."""
    with open(path, newline='') as file:
        return [
            (row['global_step'], row['loss' if 'loss' in row else 'test/accuracy'])
            for row in csv.DictReader(file)
        ]


def final_content(folder, steps=STEPS):
    return torch.load(trial(folder) / f'checkpoint_{steps}', weights_only=True)


def assert_same(a, b):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_same(left, right)
    else:
        assert a == b


def assert_same_runs(folder, expected, steps=STEPS):
    """Compares all but times: parameters, optimiser, generators and rows."""
    left, right = final_content(folder, steps), final_content(expected, steps)
    for key in ('model_params', 'optimizer_state', 'runner_state', 'global_step'):
        assert_same(left[key], right[key])
    for name in ('measurements.csv', 'eval_measurements.csv'):
        assert steps_in(trial(folder) / name) == steps_in(trial(expected) / name)
    result, wanted = read_result(trial(folder)), read_result(trial(expected))
    assert result.finished
    assert (result.global_step, result.stop_reason) == (steps, wanted.stop_reason)


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    """A study that ran in one go."""
    folder = tmp_path_factory.mktemp('uninterrupted')
    run_study(fakes.study_config(folder))
    return folder


class KilledError(BaseException):
    """Stands for the end of the process; nothing catches it."""


def die_at(monkeypatch, place, call):
    """Ends the run at the given call of a function, before or in the middle."""
    calls = itertools.count()

    def dying(original):
        def call_or_die(*arguments):
            if next(calls) == call:
                raise KilledError
            return original(*arguments)

        return call_or_die

    module, name = place
    monkeypatch.setattr(module, name, dying(getattr(module, name)))


PLACES = {
    'clock': (clock, 'now'),
    'checkpoint writing': (torch, 'save'),
    'file replacing': (atomic_files.os, 'replace'),
    'file writing': (atomic_files.os, 'fsync'),
}


@settings(max_examples=25, deadline=None)
@given(
    deaths=st.lists(
        st.tuples(st.sampled_from(sorted(PLACES)), st.integers(0, 45)),
        min_size=1,
        max_size=3,
    ),
    checkpoint_every_steps=st.sampled_from([None, 1, 2, 5]),
)
def test_ending_anywhere_and_going_on_changes_nothing(
    uninterrupted, tmp_path_factory, deaths, checkpoint_every_steps
):
    folder = tmp_path_factory.mktemp('resumed')
    config = fakes.study_config(
        folder, resume_last_run=True, checkpoint_every_steps=checkpoint_every_steps
    )
    for place, call in deaths:
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, PLACES[place], call)
            try:
                run_study(config)
            except KilledError:
                # As in another process, nothing of the global state is left.
                torch.manual_seed(random.randrange(2**32))
    run_study(config)
    assert_same_runs(folder, uninterrupted)
    shutil.rmtree(folder)


def wait_for_rows(path, rows, process):
    """Waits until a file has so many lines."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert process.poll() is None, process.stderr.read().decode()
        if path.exists() and path.read_bytes().count(b'\n') > rows:
            return
        time.sleep(0.002)
    raise AssertionError(f'{path} did not get {rows} rows')


def test_killed_process_goes_on_bit_for_bit(tmp_path):
    # The signal comes at a random moment of steps, evaluations and writing.
    steps = 150
    expected = tmp_path / 'expected'
    run_study(
        fakes.study_config(
            expected,
            max_global_steps=steps,
            save_intermediate_checkpoints=False,
        )
    )
    folder = tmp_path / 'killed'
    for kill in range(2):
        process = subprocess.Popen(
            [
                sys.executable,
                '-m',
                'tests.workloads_overrides.runner.killable_study',
                str(folder),
                str(steps),
            ],
            stderr=subprocess.PIPE,
        )
        wait_for_rows(trial(folder) / 'measurements.csv', 10 + 50 * kill, process)
        time.sleep(random.random() * 0.2)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (trial(folder) / f'checkpoint_{steps}').exists()
        before = steps_in(trial(folder) / 'eval_measurements.csv')
        assert before
    results = run_study(
        fakes.study_config(folder, max_global_steps=steps, resume_last_run=True)
    )
    assert results[0].global_step == steps
    assert (trial(folder) / 'meta_data_2.json').exists()
    assert_same_runs(folder, expected, steps)


def test_damaged_newest_checkpoint_costs_only_time(uninterrupted, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        die_at(patch, (torch, 'save'), 3)
        with pytest.raises(KilledError):
            run_study(fakes.study_config(tmp_path))
    newest = trial(tmp_path) / 'checkpoint_9'
    newest.write_bytes(newest.read_bytes()[:-100])
    run_study(fakes.study_config(tmp_path, resume_last_run=True))
    assert_same_runs(tmp_path, uninterrupted)


def test_measurements_stay_when_all_checkpoints_are_damaged(tmp_path):
    run_study(fakes.study_config(tmp_path, max_global_steps=6))
    for path in trial(tmp_path).glob('checkpoint_*'):
        path.write_bytes(path.read_bytes()[:-100])
    before = {path: path.read_bytes() for path in trial(tmp_path).iterdir()}
    with pytest.raises(RunnerError, match=r'checkpoint_6 .*checkpoint_3 .*--overwrite'):
        run_study(fakes.study_config(tmp_path, resume_last_run=True))
    assert before == {path: path.read_bytes() for path in trial(tmp_path).iterdir()}


def test_submission_time_goes_on(tmp_path, paper_clock, monkeypatch):
    selection = fakes.Queue.__next__

    def slow(queue):
        paper_clock.time += 1.0
        return selection(queue)

    monkeypatch.setattr(fakes.Queue, '__next__', slow)
    run_study(fakes.study_config(tmp_path, max_global_steps=6))
    first = read_result(trial(tmp_path)).submission_seconds
    # Another batch at each third step: 8 batches in 6 steps, 16 in 12.
    assert first == 8.0
    paper_clock.time += 10_000
    run_study(fakes.study_config(tmp_path, max_global_steps=12, resume_last_run=True))
    assert read_result(trial(tmp_path)).submission_seconds == 16.0


def test_a_higher_step_limit_goes_on_after_the_end(uninterrupted, tmp_path):
    run_study(fakes.study_config(tmp_path, max_global_steps=6))
    run_study(fakes.study_config(tmp_path, resume_last_run=True))
    left, right = final_content(tmp_path), final_content(uninterrupted)
    assert_same(left['model_params'], right['model_params'])
    assert_same(left['optimizer_state'], right['optimizer_state'])
    # The second end is written down like the first.
    steps = [step for step, _ in steps_in(trial(tmp_path) / 'measurements.csv')]
    assert (steps.count('6'), steps.count('12')) == (3, 2)
    assert left['runner_state']['is_final']


def test_training_goes_on_past_the_targets_when_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(fakes.FakeWorkload, 'validation_target_value', 0.4)
    monkeypatch.setattr(fakes.FakeWorkload, 'test_target_value', 0.4)
    (first,) = run_study(fakes.study_config(tmp_path))
    assert (first.stop_reason, first.global_step) == ('targets', 3)
    (second,) = run_study(
        fakes.study_config(tmp_path, resume_last_run=True, stop_at_targets=False)
    )
    assert (second.stop_reason, second.global_step) == ('step_limit', 12)
    assert second.steps_to_validation_target == 3


def test_a_missing_result_is_written_again_and_nothing_else(uninterrupted, tmp_path):
    run_study(fakes.study_config(tmp_path))
    (trial(tmp_path) / 'result.json').unlink()
    run_study(fakes.study_config(tmp_path, resume_last_run=True))
    assert_same_runs(tmp_path, uninterrupted)


def test_a_finished_trial_is_left_alone(tmp_path):
    (first,) = run_study(fakes.study_config(tmp_path))
    times = {path: path.stat().st_mtime_ns for path in trial(tmp_path).iterdir()}
    (second,) = run_study(fakes.study_config(tmp_path, resume_last_run=True))
    assert first == second
    assert times == {
        path: path.stat().st_mtime_ns for path in trial(tmp_path).iterdir()
    }


def test_the_first_seed_counts(tmp_path):
    run_study(fakes.study_config(tmp_path, max_global_steps=3, rng_seed=None))
    seed = read_result(trial(tmp_path)).rng_seed
    with pytest.raises(RunnerError, match=f'began with rng_seed {seed}'):
        run_study(fakes.study_config(tmp_path, resume_last_run=True, rng_seed=seed + 1))
    (result,) = run_study(
        fakes.study_config(tmp_path, resume_last_run=True, rng_seed=None)
    )
    assert result.rng_seed == seed
