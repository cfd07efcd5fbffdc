import jax
import jax.numpy as jnp
import numpy as np
import pytest

from workloads_overrides.flax_dropout import Dropout

ONES = jnp.ones((400, 50))


def drop(rate, train=True, seed=0):
    return Dropout().apply(
        {}, ONES, rate, train, rngs={'dropout': jax.random.PRNGKey(seed)}
    )


def test_values_are_dropped_at_the_rate_and_the_rest_scaled_up():
    dropped = np.asarray(drop(0.2))
    assert (dropped == 0).mean() == pytest.approx(0.2, abs=0.01)
    np.testing.assert_allclose(dropped[dropped != 0], 1.25, rtol=1e-6)
    assert not np.array_equal(dropped, drop(0.2, seed=1))


def test_without_training_or_rate_the_input_comes_back():
    assert drop(0.2, train=False) is ONES
    assert drop(0) is ONES
    assert drop(0.0) is ONES


def test_a_traced_rate_drops_the_same_and_does_not_compile_again():
    compiled = jax.jit(drop)
    for rate in (0.0, 0.3):
        np.testing.assert_array_equal(compiled(rate), drop(rate))
    assert compiled._cache_size() == 1
