from experiments.step_time.runs import Run
from experiments.step_time.variants import NADAMW, points
from tests.experiments.step_time.workloads import tiny_workload


def start(method, framework='pytorch'):
    return Run(tiny_workload(framework), framework, points()[method], 16)


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
