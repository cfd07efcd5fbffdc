import dataclasses
import json
import math
import types

import pytest

from experiments.time_to_target import choose_points
from experiments.time_to_target.candidates import mean_log_steps, steps_by_study
from experiments.time_to_target.choose_points import (
    _first_of,
    choose,
    could_be_better,
    points_by_method,
    with_exponents,
)
from experiments.time_to_target.methods import RESULTS
from submission.settings import Settings
from tests.experiments.time_to_target.records import make_record
from tests.test_tuning_search_space import PATH as SEARCH_SPACE

STEP_HINTS = {'gnn': 100, 'vit': 1000}


def make_trial(point, seed, reaches_at):
    record = make_record('kfac', point, seed, reaches_at)
    # A schedule of 30 or 50 steps; records end at 30.
    hyperparameters = candidate(point)
    return dataclasses.replace(
        record, trial=dataclasses.replace(record.trial, hyperparameters=hyperparameters)
    )


def candidate(point):
    return {'point': point, 'step_hint_factor': 0.5 if point == 2 else 0.3}


def collect(records, **options):
    workload = records[0].trial.workload
    candidates = [candidate(n) for n in range(4)]
    found = steps_by_study(
        records, {workload: 0.5}, {workload: 100}, candidates, **options
    )
    return {seed: steps for (_, seed), steps in found.items()}


def test_which_candidates_reached_the_target_and_when():
    records = [
        make_trial(0, 0, 20),
        make_trial(1, 0, None),
        make_trial(2, 3, None),
        make_trial(3, 3, 30),
        make_trial(9, 0, 10),
    ]
    assert collect(records) == {0: {0: 20}, 3: {3: 30}}
    # One was ended before the end of its schedule.
    assert collect(records, soonest=True) == {0: {0: 20}, 3: {2: 40, 3: 30}}


def test_whether_the_choice_depends_on_trials_that_were_ended():
    hints = {'gnn': 100}
    worst = {('gnn', 0): {0: 20, 1: 10}}
    sure = could_be_better([0, 1], 3, worst, {('gnn', 0): {0: 20, 1: 10, 2: 10}}, hints)
    assert sure is None
    soonest = {('gnn', 0): {0: 20, 1: 10, 2: 9}}
    assert could_be_better([0, 1], 3, worst, soonest, hints) == [0, 1, 2]


def start(monkeypatch, output):
    given = types.SimpleNamespace(
        workloads=['ogbg_chembl', 'imagenet_vit_fashion_mnist'],
        framework='pytorch',
        results_dir=str(RESULTS),
        output=str(output),
    )
    monkeypatch.setattr(choose_points, 'flags', types.SimpleNamespace(FLAGS=given))
    choose_points.main()


def test_the_points_of_the_submission_are_chosen(tmp_path, monkeypatch, capsys):
    output = tmp_path / 'new' / 'space.json'
    start(monkeypatch, output)
    assert json.loads(output.read_text()) == json.loads(SEARCH_SPACE.read_text())
    assert 'none is better' in capsys.readouterr().out


def test_points_of_either_rule_get_its_exponents_in_turn():
    rules = ['nadamw', 'spectral', 'spectral', 'nadamw', 'spectral']
    given = with_exponents({'first_order_rule': rule} for rule in rules)
    assert [point['first_order_rule'] for point in given] == rules
    exponents = [(p['fan_in_exponent'], p['weight_decay_exponent']) for p in given]
    assert exponents == [
        (1.0, 1.0),
        (0.5, 0.75),
        (0.5, 1.0),
        (0.5, 0.5),
        (0.5, 0.75),  # Again from the first.
    ]


def test_best_of_a_set_counts_and_never_counts_as_the_step_hint():
    studies = {('gnn', 0): {0: 20, 1: 10}, ('vit', 0): {2: 300}}
    logs = mean_log_steps([0, 1], studies, STEP_HINTS)
    assert logs == pytest.approx((math.log(10) + math.log(1000)) / 2)


STUDIES = {
    ('gnn', 0): {0: 20, 1: 10, 2: 19, 3: 12},
    ('gnn', 1): {0: 20, 1: 10, 3: 11, 6: 15},
    ('vit', 0): {0: 500, 4: 70, 5: 400},
    ('vit', 1): {0: 500, 4: 450, 5: 90},
}


def test_points_that_are_best_somewhere_are_chosen_in_the_order_of_what_they_add():
    chosen = choose(0, 7, STUDIES, STEP_HINTS)
    # Point 4 saves most on the images, then 5; 1 is best on both seeds of the graphs;
    # the last place makes no difference.
    assert chosen == [0, 4, 5, 1, 2]


def test_first_point_stays_though_it_is_best_nowhere():
    assert choose(6, 7, STUDIES, STEP_HINTS)[0] == 6


def test_fewer_candidates_than_places():
    assert sorted(choose(1, 3, STUDIES, STEP_HINTS)) == [0, 1, 2]


def test_the_self_tuning_point_is_among_the_candidates():
    points = [p for found in points_by_method().values() for p in found]
    first = points[_first_of(points)]
    assert first['learning_rate'] == Settings.self_tuning().learning_rate
    with pytest.raises(ValueError, match='that of the self-tuning ruleset'):
        _first_of([point for point in points if point != first])
