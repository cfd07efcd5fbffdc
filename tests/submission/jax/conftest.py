"""Settings that the tests of the JAX half share."""

import jax
import pytest


@pytest.fixture(scope='module')
def double_precision():
    """Lets a module's tests compute in float64, and no others.

    What they compile runs once or twice, so it is not optimised for long.
    """
    changes = {'jax_enable_x64': True, 'jax_disable_most_optimizations': True}
    for name, value in changes.items():
        jax.config.update(name, value)
    yield
    for name in changes:
        jax.config.update(name, False)
