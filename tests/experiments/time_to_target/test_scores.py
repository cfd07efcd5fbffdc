import json
import math

import pytest

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
    found = scores.studies_of(NADAMW, TARGET, step_seconds=0.1)
    assert [study.steps for study in found] == [20, math.inf, 30]
    assert [study.seconds for study in found] == pytest.approx([2.0, math.inf, 3.0])
    assert found[0].best.trial.hyperparameters == {'point': 2}


def test_seconds_are_the_records_own_without_a_measurement():
    found = scores.studies_of(NADAMW[:5], TARGET, step_seconds=None)
    assert found[0].seconds == 10.0


def test_a_study_under_way_has_no_score():
    found = scores.studies_of(NADAMW[:9], TARGET, step_seconds=None)
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
    fast = [r for s in (0, 2) for r in five('kfac', s, 10, None, None, None, None)]
    studies = {
        'nadamw': scores.studies_of([*NADAMW[:5], *NADAMW[10:]], TARGET, 0.1),
        'kfac': scores.studies_of(fast, TARGET, 0.2),
    }
    summary = scores.summarise(studies, {'nadamw': 0.1, 'kfac': 0.2})
    json.dumps(summary, allow_nan=False)
    assert summary['nadamw']['reached'] == 2
    lines = format_table(summary, {'nadamw': 'NAdamW', 'kfac': 'K-FAC'}).splitlines()
    assert lines[2] == (
        '| K-FAC | 2 of 2 | 10 (10 to 10) | 0.33 | 2.0 (2.0 to 2.0) | 0.67 | 200.0 |'
    )
    assert lines[3].startswith('| NAdamW | 2 of 2 | 30 (20 to 30) | 1.00 | 3.0 (2.0 to')
