"""Evaluation gets averaged parameters, and training does not notice."""

import jax
import numpy as np
import pytest

from tests.submission.test_parameter_average import POWER, STEPS, step_weights

from .tiny_workload import TinyModel, TinyWorkload
from .training import hyperparameters, init, prepare_for_eval, train


def _as_numpy(tree):
    return jax.tree.map(np.array, tree)


def _weighted(history):
    weights = step_weights(len(history))
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
            averaged = prepare_for_eval(*prepare_for_eval(*averaged))
            jax.tree.map(
                lambda found, mean: np.testing.assert_allclose(
                    found, mean, rtol=1e-4, atol=1e-6
                ),
                averaged[1:],
                _weighted(history),
            )
            assert all(
                not np.array_equal(mean, now)
                for mean, now in zip(
                    jax.tree.leaves(averaged[1:]),
                    jax.tree.leaves(history[-1]),
                    strict=True,
                )
            )


def test_a_step_is_compiled_once():
    """Whether an evaluation came before it or not."""
    workload = TinyWorkload(model=TinyModel(batch_norm=True))
    point = hyperparameters(averaging_power=POWER, statistics_interval=3)
    run = init(workload, point)
    for step in range(STEPS):
        run = prepare_for_eval(*train(workload, point, *run, [step]))
    _, steps = run[0]
    parts = (steps.plain, steps.statistics, steps.inverses, steps.apply)
    assert [part._cache_size() for part in parts] == [1] * 4
