"""Evaluation gets averaged parameters, and training does not notice."""

import math

import jax
import numpy as np
import pytest

from submission import jax_submission

from .tiny_workload import TinyModel, TinyWorkload
from .training import hyperparameters, init, train

POWER, STEPS = 3, 6


def _prepared(state, params, model_state):
    found, *evaluated = jax_submission.prepare_for_eval(
        None, params, None, model_state, None, None, state, [], 0, None
    )
    assert found is state
    return tuple(evaluated)


def _as_numpy(tree):
    return jax.tree.map(np.array, tree)


def _weighted(history):
    weights = [math.prod(range(t, t + POWER)) for t in range(1, len(history) + 1)]
    return jax.tree.map(
        lambda *values: np.average(values, axis=0, weights=weights), *history
    )


@pytest.mark.parametrize('approximation', ['none', 'expand'])
def test_evaluation_gets_the_mean_and_training_goes_on(approximation):
    workload = TinyWorkload(model=TinyModel(batch_norm=True))
    point = hyperparameters(approximation=approximation)
    averaging = hyperparameters(approximation=approximation, averaging_power=POWER)
    plain, averaged = init(workload, point), init(workload, averaging)
    history = []
    for step in range(STEPS):
        plain = train(workload, point, *plain, [step])
        averaged = train(workload, averaging, *averaged, [step])
        history.append(_as_numpy(averaged[1:]))
        jax.tree.map(
            lambda found, expected: np.testing.assert_allclose(
                found, expected, rtol=1e-5, atol=1e-6
            ),
            history[-1],
            _as_numpy(plain[1:]),
        )
        if step % 2:
            # More than once, as where one evaluation follows another.
            evaluated = _prepared(averaged[0], *_prepared(*averaged))
            jax.tree.map(
                lambda found, mean: np.testing.assert_allclose(
                    found, mean, rtol=1e-4, atol=1e-6
                ),
                evaluated,
                _weighted(history),
            )
            assert all(
                not np.array_equal(mean, now)
                for mean, now in zip(
                    jax.tree.leaves(evaluated),
                    jax.tree.leaves(history[-1]),
                    strict=True,
                )
            )
            # A runner goes on with what it evaluated.
            averaged = (averaged[0], *evaluated)


def test_a_step_is_compiled_once():
    """Whether an evaluation came before it or not."""
    workload = TinyWorkload(model=TinyModel(batch_norm=True))
    point = hyperparameters(averaging_power=POWER, statistics_interval=3)
    run = init(workload, point)
    for step in range(STEPS):
        run = train(workload, point, *run, [step])
        run = (run[0], *_prepared(*run))
    _, steps = run[0]
    parts = (steps.plain, steps.statistics, steps.inverses, steps.apply)
    assert [part._cache_size() for part in parts] == [1] * 4
