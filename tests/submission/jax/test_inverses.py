"""Damped inverses and their roots, as each device computes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from submission.jax import inverses
from submission.jax.inverses import damped_inverses, inverses_from_roots

from .test_preconditioner import _damped, _mean_eigenvalue, _spd

pytestmark = pytest.mark.usefixtures('double_precision')

SIZES = np.array([5, 6, 6])
DAMPING = 0.01


def _stack():
    """Factors `[3, 2, 6, 6]`, the first of 5 rows and padding."""
    factors = np.stack([_spd(2, 6, seed=seed) for seed in range(3)])
    factors[0, :, 5:] = factors[0, :, :, 5:] = 0.0
    return jnp.asarray(factors)


def _expected(stack, index):
    size = SIZES[index]
    factor = np.asarray(stack[index, :, :size, :size])
    mean = _mean_eigenvalue(factor)
    return np.linalg.inv(_damped(factor, DAMPING) / mean), mean


@pytest.mark.parametrize('way', ['as a CPU', 'as an accelerator', 'by roots'])
def test_inverses(way, monkeypatch):
    stack = _stack()
    if way == 'as an accelerator':

        def default_alone(*operands, cpu, default):
            del cpu
            return default(*operands)

        monkeypatch.setattr(jax.lax, 'platform_dependent', default_alone)
    as_roots = way == 'by roots'
    found, means, succeeded = damped_inverses(stack, SIZES, DAMPING, as_roots=as_roots)
    if as_roots:
        np.testing.assert_array_equal(found, np.tril(found))
        found = inverses_from_roots(found)
    assert succeeded.all()
    for index, size in enumerate(SIZES):
        expected, mean = _expected(stack, index)
        np.testing.assert_allclose(found[index, :, :size, :size], expected, rtol=1e-9)
        np.testing.assert_allclose(means[index], mean, rtol=1e-12)


@pytest.mark.parametrize('spoiled', ['indefinite', 'not a number'])
def test_one_that_fails_leaves_the_others(spoiled):
    stack = _stack()
    expected, *_ = damped_inverses(stack, SIZES, DAMPING)
    value = -1e3 if spoiled == 'indefinite' else jnp.nan
    stack = stack.at[1, 1, 2, 2].set(value)
    found, _, succeeded = damped_inverses(stack, SIZES, DAMPING)
    assert succeeded.tolist() == [True, False, True]
    np.testing.assert_array_equal(found[::2], expected[::2])


def test_a_cpu_multiplies_no_matrices():
    """Its second triangular solution takes half the operations of a product."""
    factor = _stack()[1]
    program = jax.jit(inverses._inverses).lower(factor).as_text()
    assert 'trsm' in program
    assert 'dot_general' not in program
