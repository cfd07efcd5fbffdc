import contextlib
import time
from unittest import mock

import pytest
import torch

from experiments.step_time import breakdown
from experiments.step_time.runs import start_all
from experiments.step_time.variants import NADAMW, points
from submission import pytorch_submission
from submission.pytorch import approximations
from submission.pytorch.first_order import FirstOrderOptimizer
from submission.pytorch.preconditioner import KFACPreconditioner
from tests.experiments.step_time.workloads import tiny_workload

ON_FACTORS = ('extra backward', 'factors', 'inverses')


def started(framework, methods):
    wanted = {method: points()[method] for method in methods}
    return start_all(tiny_workload(framework), framework, wanted, 16)


@pytest.mark.parametrize(
    ('framework', 'methods'),
    [
        ('pytorch', ['reduce, empirical', 'expand, monte_carlo']),
        # Compiles.
        ('jax', ['expand, monte_carlo']),
    ],
)
def test_parts_by_kind_of_step(framework, methods):
    measured = breakdown.measure(framework, started(framework, [NADAMW, *methods]), 3)
    assert {name: list(kinds) for name, kinds in measured.items()} == {
        NADAMW: ['plain'],
        **{method: ['statistics', 'plain'] for method in methods},
    }
    for name, kinds in measured.items():
        for kind, seconds in kinds.items():
            assert tuple(seconds) == breakdown.PARTS
            assert seconds['forward and backward'] > 0
            assert seconds['first-order rule'] > 0
            assert (seconds['preconditioning'] > 0) == (name != NADAMW)
            if kind == 'plain':
                assert not any(seconds[part] for part in ON_FACTORS)
            else:
                assert seconds['inverses'] > 0
                assert seconds['factors'] != 0
                sampled = name.endswith('monte_carlo')
                assert (seconds['extra backward'] != 0) == sampled


# Seconds of a clock of the test's own, beside which the real ones are nothing.
SLOW = 1000.0


@pytest.mark.parametrize(
    ('owner', 'name', 'calls', 'part'),
    [
        (KFACPreconditioner, 'update_inverses', 1, 'inverses'),
        (KFACPreconditioner, 'precondition', 3, 'preconditioning'),
        # Within the forward pass.
        (approximations.ReduceSums, 'add_inputs', 3, 'factors'),
        # Within the backward pass that is to the layers only.
        (approximations.ReduceSums, 'add_gradients', 3, 'factors'),
    ],
)
def test_time_counts_where_it_passes(owner, name, calls, part):
    function = getattr(owner, name)
    waited = 0.0

    def slow(*args, **kwargs):
        nonlocal waited
        waited += SLOW
        return function(*args, **kwargs)

    method = 'reduce, monte_carlo'
    runs = started('pytorch', [method])
    runs[method].training.clock = lambda: time.perf_counter() + waited
    with mock.patch.object(owner, name, slow):
        measured = breakdown.measure('pytorch', runs, rounds=2)
    seconds = measured[method]['statistics']
    assert seconds[part] >= calls * SLOW
    assert sum(seconds.values()) - seconds[part] < SLOW
    # The submission is as it was.
    assert getattr(owner, name) is function


# In and outside the parts, and within one another.
EVERYWHERE = [
    (pytorch_submission, 'scheduled_learning_rate'),
    (torch.Tensor, 'backward'),
    (approximations.ExpandSums, 'add_inputs'),
    (approximations.ExpandSums, 'add_gradients'),
    (KFACPreconditioner, 'update_inverses'),
    (KFACPreconditioner, 'precondition'),
    (FirstOrderOptimizer, 'step'),
]


def test_all_of_a_step_is_in_its_parts():
    """By a clock on which time passes in some functions alone."""
    runs = started('pytorch', ['expand, empirical'])
    (run,) = runs.values()
    passed = 0.0
    taken = []
    take = run.take

    def passing_time(function):
        def slow(*args, **kwargs):
            nonlocal passed
            passed += SLOW
            outcome = function(*args, **kwargs)
            passed += SLOW
            return outcome

        return slow

    def recorded(kind):
        taken.append((kind, take(kind)))

    run.training.clock = lambda: passed
    with contextlib.ExitStack() as stack:
        for owner, name in EVERYWHERE:
            slow = passing_time(getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, slow))
        stack.enter_context(mock.patch.object(run, 'take', recorded))
        measured = breakdown.measure('pytorch', runs, rounds=1)
    steps = dict(taken[-2:])
    assert steps['statistics'] > steps['plain'] > 0
    for kind, seconds in measured['expand, empirical'].items():
        assert sum(seconds.values()) == steps[kind]
        assert seconds['rest'] == 2 * SLOW
