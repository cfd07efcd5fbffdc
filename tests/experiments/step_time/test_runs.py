import pytest

from experiments.step_time.runs import Run
from experiments.step_time.variants import INTERVAL, NADAMW, points
from tests.experiments.step_time.workloads import tiny_workload


def start(method, framework='pytorch', inverse_interval=INTERVAL):
    point = points(inverse_interval)[method]
    return Run(tiny_workload(framework), framework, point, 16)


def test_steps_are_of_the_kind_that_is_asked_for():
    run = start('reduce, monte_carlo')
    numbers = []
    for kind in ('statistics', 'statistics', 'plain', 'statistics', 'statistics'):
        assert run.take(kind) > 0
        numbers.append(run.step - 1)
    assert numbers == [0, 1, 2, 10, 20]
    assert run.training.state[0]['preconditioner'].counters['factor_updates'] == 4
    run.take('plain')
    assert run.step == 22
    assert run.training.state[0]['preconditioner'].counters['factor_updates'] == 4
    assert run.training.compilation == {}


@pytest.mark.parametrize('framework', ['pytorch', 'jax'])
def test_steps_renew_factors_with_the_inverses_of_before(framework):
    run = start('reduce, empirical', framework, inverse_interval=2 * INTERVAL)
    numbers = []
    for kind in ('factors', 'factors', 'statistics', 'plain', 'factors'):
        assert run.take(kind) > 0
        numbers.append(run.step - 1)
    assert numbers == [10, 30, 40, 41, 50]


def test_there_are_no_such_steps_where_inverses_are_renewed_as_often():
    with pytest.raises(ValueError, match='make the latter longer'):
        start('reduce, empirical').take('factors')


def test_nadamw_leaves_no_step_out():
    run = start(NADAMW)
    run.warm_up()
    assert run.step == 4


def test_compilation_is_counted_apart():
    run = start('reduce, empirical', 'jax')
    seconds = [run.take(kind) for kind in ('statistics', 'plain', 'plain')]
    assert list(run.training.compilation) == [0, 2]
    # A compiled step of this model takes less than a thousandth.
    assert all(0 < s < 0.5 * run.training.compilation[0] for s in seconds)
