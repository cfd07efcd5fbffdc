import json
import math

import pytest

from experiments.step_seconds import StepSeconds
from experiments.time_to_target import scores
from experiments.time_to_target.table import format_table
from tests.experiments.time_to_target.records import make_record

TARGET = 0.5


def five(method, seed, *reaches_at):
    return [make_record(method, point, seed, at) for point, at in enumerate(reaches_at)]


NADAMW = [
    *five('nadamw', 0, None, 30, 20, None, 30),
    *five('nadamw', 1, None, None, None, None, None),
    *five('nadamw', 2, 30, None, None, None, None),
]


def test_the_fastest_trial_of_each_seed():
    found = scores.studies_of(NADAMW, TARGET, StepSeconds(0.1))
    assert [study.steps for study in found] == [20, math.inf, 30]
    assert [study.seconds for study in found] == pytest.approx([2.0, math.inf, 3.0])
    assert found[0].best.trial.hyperparameters == {'point': 2}


def test_seconds_are_the_records_own_without_a_measurement():
    found = scores.studies_of(NADAMW[:5], TARGET, None)
    assert found[0].seconds == 10.0


def test_a_study_under_way_has_no_score():
    found = scores.studies_of(NADAMW[:9], TARGET, None)
    assert [study.seed for study in found] == [0]


def test_never_is_worse_than_any_time():
    spread = scores.median_and_range([20, math.inf, 30])
    assert spread == {'median': 30, 'lowest': 20, 'highest': None}


def test_two_of_four_seeds_do_not_make_a_median():
    assert scores.median_and_range([1, 2, math.inf, math.inf])['median'] is None


def test_performance_profile():
    fast = [r for s in (0, 1, 2) for r in five('kfac', s, 10, None, None, None, None)]
    studies = {
        'nadamw': scores.studies_of(NADAMW, TARGET, None),
        'kfac': scores.studies_of(fast, TARGET, None),
    }
    profile = scores.performance_profile(studies, 'steps')
    assert profile == {'nadamw': [2, 3, math.inf], 'kfac': [1, 1, 1]}


def test_summary_and_table():
    costs = {'nadamw': StepSeconds(0.1), 'kfac': StepSeconds(0.2)}
    fast = [r for s in (0, 2) for r in five('kfac', s, 10, None, None, None, None)]
    studies = {
        'nadamw': scores.studies_of(
            [*NADAMW[:5], *NADAMW[10:]], TARGET, costs['nadamw']
        ),
        'kfac': scores.studies_of(fast, TARGET, costs['kfac']),
    }
    summary = scores.summarise(studies, costs)
    json.dumps(summary, allow_nan=False)
    assert summary['nadamw']['reached'] == 2
    lines = format_table(summary, {'nadamw': 'NAdamW', 'kfac': 'K-FAC'}).splitlines()
    assert lines[2] == (
        '| K-FAC | 2 of 2 | 10 (10 to 10) | 0.33 | 2.0 (2.0 to 2.0) | 0.67 | 200.0 |'
    )
    assert lines[3].startswith('| NAdamW | 2 of 2 | 30 (20 to 30) | 1.00 | 3.0 (2.0 to')


def test_table_with_compilation():
    costs = {'nadamw': StepSeconds(0.1, 1.0), 'kfac': StepSeconds(0.2, 4.0)}
    fast = five('kfac', 0, 10, None, None, None, None)
    studies = {
        'nadamw': scores.studies_of(NADAMW[:5], TARGET, costs['nadamw']),
        'kfac': scores.studies_of(fast, TARGET, costs['kfac']),
    }
    summary = scores.summarise(studies, costs)
    lines = format_table(summary, {'nadamw': 'NAdamW', 'kfac': 'K-FAC'}).splitlines()
    assert lines[0].endswith('| ms a step | of them compiling | without / NAdamW |')
    assert lines[2] == (
        '| NAdamW | 1 of 1 | 20 | 1.00 | 3.0 | 1.00 | 100.0 | 1.0 | 1.00 |'
    )
    # 4 + 10 x 0.2 seconds; without the 4 as long as NAdamW's 20 x 0.1.
    assert lines[3] == (
        '| K-FAC | 1 of 1 | 10 | 0.50 | 6.0 | 2.00 | 200.0 | 4.0 | 1.00 |'
    )
