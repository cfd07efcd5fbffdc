"""The runner's logs are what the leaderboard's scoring program reads.

The program is the package `scoring` of mlcommons/submissions_algorithms, or of older
checkouts of AlgoPerf. Its rules are applied here too, so that most tests do without.
"""

import csv
import importlib.util
import json
import math
import re
import statistics
import subprocess
import sys

import pytest

from tests.leaderboard import scored_workload
from tests.workloads_overrides.runner import fakes
from workloads_overrides import registry
from workloads_overrides.runner.study import run_study

STUDIES, TRIALS = 3, 5


@pytest.fixture(scope='module')
def submissions(tmp_path_factory):
    """A folder of one submission: three studies of five trials on one workload."""
    folder = tmp_path_factory.mktemp('submissions')
    space = tmp_path_factory.mktemp('space') / 'tuning_search_space.json'
    rates = [0.1 * (trial + 1) for trial in range(TRIALS)]
    space.write_text(json.dumps([{'learning_rate': rate} for rate in rates]))
    with pytest.MonkeyPatch.context() as patch:
        name, entry = scored_workload.NAME, scored_workload.ENTRY
        patch.setitem(registry.WORKLOADS, name, entry)
        for study in range(STUDIES):
            run_study(
                fakes.study_config(
                    folder,
                    workload=name,
                    experiment_name='kfac',
                    study=study,
                    tuning_ruleset='external',
                    tuning_search_space=str(space),
                    num_tuning_trials=TRIALS,
                    max_global_steps=4,
                    eval_every_steps=2,
                    rng_seed=study,
                )
            )
    return folder


def trial_folders(submission):
    """Walks as the scoring program does: every entry on the way has to be a folder."""
    for study in submission.iterdir():
        for workload in study.iterdir():
            if workload.is_dir():
                for trial in workload.iterdir():
                    if re.match(r'trial_(\d+)', trial.name):
                        yield study.name, workload.name, trial


def read_columns(path):
    with open(path, newline='') as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def first_above_target(trial):
    """Returns number of evaluations and seconds to the target, infinite if missed."""
    columns = read_columns(trial / 'eval_measurements.csv')
    for number, accuracy in enumerate(columns['validation/accuracy']):
        if accuracy >= scored_workload.TARGET:
            return number, columns['score'][number]
    return math.inf, math.inf


def time_to_target(submission):
    """The median over studies of the best trial's time.

    The best trial is the one with the fewest evaluations to the target; among equals
    it is the first in the folder, whatever its time.
    """
    by_study = {}
    for study, _, trial in trial_folders(submission):
        by_study.setdefault(study, []).append(first_above_target(trial))
    best = [min(trials, key=lambda pair: pair[0]) for trials in by_study.values()]
    return statistics.median(seconds for _, seconds in best)


def test_folders_and_files(submissions):
    found = list(trial_folders(submissions / 'kfac'))
    assert {study for study, _, _ in found} == {'study_0', 'study_1', 'study_2'}
    assert {workload for _, workload, _ in found} == {'mnist_pytorch'}
    assert sorted(trial.name for study, _, trial in found if study == 'study_0') == [
        f'trial_{number}' for number in range(1, TRIALS + 1)
    ]
    for _, _, trial in found:
        for name in ('hparams.json', 'meta_data_0.json', 'flags_0.json'):
            assert isinstance(json.loads((trial / name).read_text()), dict)
        assert (trial / 'measurements.csv').is_file()


def test_columns(submissions):
    for _, _, trial in trial_folders(submissions / 'kfac'):
        columns = read_columns(trial / 'eval_measurements.csv')
        assert {
            'accumulated_eval_time',
            'accumulated_logging_time',
            'accumulated_submission_time',
            'global_step',
            'preemption_count',
            'score',
            'total_duration',
            'train/accuracy',
            'validation/accuracy',
            'test/accuracy',
        } <= columns.keys()
        assert columns['global_step'] == [2, 4]
        assert columns['validation/accuracy'] == [0.5, pytest.approx(0.98)]
        assert columns['score'] == columns['accumulated_submission_time']
        assert 0 < columns['score'][0] < columns['score'][1]
        for values in columns.values():
            assert all(map(math.isfinite, values))


def test_times_to_the_target_are_those_of_the_results(submissions):
    for _, _, trial in trial_folders(submissions / 'kfac'):
        result = json.loads((trial / 'result.json').read_text())
        number, seconds = first_above_target(trial)
        assert number == 1
        assert seconds == pytest.approx(result['seconds_to_validation_target'])
    assert 0 < time_to_target(submissions / 'kfac') < math.inf


@pytest.mark.algoperf
def test_the_scoring_program_accepts_the_logs(submissions, tmp_path):
    pytest.importorskip('pandas', reason='the scoring program needs pandas')
    if importlib.util.find_spec('scoring') is None:
        pytest.skip('the scoring program, package `scoring`, is not installed')
    arguments = [f'--submission_directory={submissions}', f'--output_dir={tmp_path}']
    # Older versions take targets from AlgoPerf, score all workloads or none, and are
    # run as a script.
    takes_targets = importlib.util.find_spec('scoring.config') is not None
    program = ['-m', 'scoring.score_submissions']
    if not takes_targets:
        program = [importlib.util.find_spec('scoring.score_submissions').origin]
    if takes_targets:
        targets = tmp_path / 'targets.json'
        targets.write_text(
            json.dumps(
                {
                    'benchmark_version': 'test',
                    'base_workloads': [scored_workload.NAME],
                    'held_out_workloads': [],
                    'workloads': {
                        scored_workload.NAME: {
                            'target_metric_name': 'accuracy',
                            'validation_target_value': scored_workload.TARGET,
                            'step_hint': 10,
                        }
                    },
                }
            )
        )
        arguments += [
            f'--workload_targets={targets}',
            '--compute_performance_profiles',
            '--strict',
        ]
    run = subprocess.run(
        [sys.executable, *program, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    with open(tmp_path / 'kfac_summary.csv', newline='') as file:
        summary = list(csv.DictReader(file))
    assert len(summary) == STUDIES * TRIALS
    assert {row['val target reached'] for row in summary} == {'True'}
    if takes_targets:
        seconds = read_times(tmp_path / 'time_to_targets.csv')
        expected = time_to_target(submissions / 'kfac')
        assert seconds == {scored_workload.NAME: pytest.approx(expected, rel=1e-9)}
        with open(tmp_path / 'scores.csv', newline='') as file:
            (score,) = csv.DictReader(file)
        assert (score['submission'], float(score['score'])) == ('kfac', 1.0)


def read_times(path):
    with open(path, newline='') as file:
        (row,) = csv.DictReader(file)
    assert row.pop('submission') == 'kfac'
    return {name: float(value) for name, value in row.items()}
