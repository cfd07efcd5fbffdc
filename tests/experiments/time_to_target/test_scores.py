import json
import math

import pytest

from experiments.step_seconds import StepSeconds
from experiments.time_to_target import scores
from experiments.time_to_target.table import format_table
from tests.experiments.time_to_target.records import make_record

TARGET = 0.5
LABELS = {'nadamw': 'NAdamW', 'kfac': 'K-FAC', 'soap': 'SOAP'}


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


def test_no_seconds_without_a_measurement():
    found = scores.studies_of([*NADAMW[:10]], TARGET, None)
    assert [study.seconds for study in found] == [None, None]
    summary = scores.summarise({'nadamw': found}, {})
    assert summary['nadamw']['seconds_to_target'] is None
    assert summary['nadamw']['compilation_seconds'] is None


def test_a_study_under_way_has_no_score():
    found = scores.studies_of(NADAMW[:9], TARGET, None)
    assert [study.seed for study in found] == [0]
    # A method with fewer points than others.
    found = scores.studies_of(NADAMW[:9], TARGET, None, trials=4)
    assert [study.seed for study in found] == [0, 1]


def test_never_is_worse_than_any_time():
    spread = scores.median_and_range([20, math.inf, 30])
    assert spread == {'median': 30, 'lowest': 20, 'highest': None}


def test_two_of_four_seeds_do_not_make_a_median():
    assert scores.median_and_range([1, 2, math.inf, math.inf])['median'] is None


def kfac(*seeds):
    records = [r for s in seeds for r in five('kfac', s, 10, None, None, None, None)]
    return scores.studies_of(records, TARGET, StepSeconds(0.2))


def test_performance_profile():
    studies = {
        'nadamw': scores.studies_of(NADAMW, TARGET, StepSeconds(0.1)),
        'kfac': kfac(0, 1, 2),
    }
    profile = scores.performance_profile(studies, 'steps')
    assert profile.multiples == {'nadamw': [2, 3, math.inf], 'kfac': [1, 1, 1]}
    assert profile.seeds == [0, 1, 2]
    assert profile.left_out == []
    profile = scores.performance_profile(studies, 'seconds')
    assert profile.multiples['nadamw'] == pytest.approx([1, 1.5, math.inf])


def test_a_profile_has_the_methods_with_all_seeds():
    studies = {
        'nadamw': scores.studies_of(NADAMW, TARGET, None),
        # Would be the fastest at two of the seeds.
        'kfac': kfac(0, 2),
    }
    profile = scores.performance_profile(studies, 'steps')
    assert profile.multiples == {'nadamw': [1, 1, math.inf]}
    assert profile.left_out == ['kfac']
    # NAdamW was not timed.
    profile = scores.performance_profile(studies, 'seconds')
    assert profile.multiples == {'kfac': [1, 1]}
    assert profile.seeds == [0, 2]
    assert profile.left_out == ['nadamw']


def test_a_profile_of_nothing():
    assert scores.performance_profile({}, 'steps') == scores.Profile({}, [], [])


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
    lines = format_table(summary, LABELS, {}).splitlines()
    assert lines[2] == (
        '| K-FAC | 2 of 2 | 10 (10 to 10) | 0.40 | 2.0 (2.0 to 2.0) | 0.80 | 200.0 |'
    )
    assert lines[3].startswith('| NAdamW | 2 of 2 | 25 (20 to 30) | 1.00 | 2.5 (2.0 to')


def test_table_with_compilation():
    costs = {'nadamw': StepSeconds(0.1, 1.0), 'kfac': StepSeconds(0.2, 4.0)}
    fast = five('kfac', 0, 10, None, None, None, None)
    studies = {
        'nadamw': scores.studies_of(NADAMW[:5], TARGET, costs['nadamw']),
        'kfac': scores.studies_of(fast, TARGET, costs['kfac']),
    }
    summary = scores.summarise(studies, costs)
    lines = format_table(summary, LABELS, {}).splitlines()
    assert lines[0].endswith('| ms a step | of them compiling | without / NAdamW |')
    assert lines[2] == (
        '| NAdamW | 1 of 1 | 20 | 1.00 | 3.0 | 1.00 | 100.0 | 1.0 | 1.00 |'
    )
    # 4 + 10 x 0.2 seconds; without the 4 as long as NAdamW's 20 x 0.1.
    assert lines[3] == (
        '| K-FAC | 1 of 1 | 10 | 0.50 | 6.0 | 2.00 | 200.0 | 4.0 | 1.00 |'
    )


def test_table_tells_what_is_not_known_from_never():
    costs = {'nadamw': StepSeconds(0.1)}
    studies = {
        'nadamw': scores.studies_of(NADAMW[5:10], TARGET, costs['nadamw']),
        'soap': scores.studies_of(NADAMW[10:], TARGET, None),
    }
    summary = scores.summarise(studies, costs)
    json.dumps(summary, allow_nan=False)
    lines = format_table(summary, LABELS, {'soap': 1.234}).splitlines()
    assert lines[2:4] == [
        '| SOAP | 1 of 1 | 30 | - | - | - | - |',
        '| NAdamW | 0 of 1 | never | - | never | - | 100.0 |',
    ]
    assert lines[5].startswith('No seconds where the step has not been timed')
    assert lines[5].endswith(': SOAP.')
    assert lines[7].startswith('Timed earlier than the others')
    assert lines[7].endswith(': SOAP (1.23).')
