"""Double precision in JAX, for a while."""

import contextlib

import jax


@contextlib.contextmanager
def double_precision():
    """Lets JAX use 64 bits inside; the name of the context manager has moved."""
    if hasattr(jax, 'enable_x64'):
        enabled = jax.enable_x64(True)
    else:
        from jax.experimental import enable_x64

        enabled = enable_x64()
    with enabled:
        yield
