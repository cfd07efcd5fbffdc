import math

import pytest

from experiments.time_to_target.choose_points import (
    _first_of,
    choose,
    mean_log_steps,
    steps_by_study,
)
from experiments.time_to_target.methods import METHODS
from tests.experiments.time_to_target.records import make_record

STEP_HINTS = {'gnn': 100, 'vit': 1000}


def test_which_candidates_reached_the_target_and_when():
    records = [
        make_record('kfac', 0, 0, 20),
        make_record('kfac', 1, 0, None),
        make_record('kfac', 2, 3, 30),
        make_record('kfac', 9, 0, 10),
    ]
    workload = records[0].trial.workload
    candidates = [{'point': n} for n in range(3)]
    found = steps_by_study(records, {workload: 0.5}, candidates)
    assert found == {(workload, 0): {0: 20}, (workload, 3): {2: 30}}


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


def test_defaults_are_among_the_candidates():
    points = [*METHODS['kfac_expand'].points, *METHODS['kfac_reduce'].points]
    assert points[_first_of(points)]['approximation'] == 'reduce'
    with pytest.raises(ValueError, match="submission's defaults"):
        _first_of(METHODS['kfac_expand'].points)
