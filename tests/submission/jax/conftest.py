"""Settings that the tests of the JAX half share."""

import jax
import pytest


@pytest.fixture(scope='module')
def double_precision():
    """Lets a module's tests compute in float64, and no others."""
    jax.config.update('jax_enable_x64', True)
    yield
    jax.config.update('jax_enable_x64', False)
