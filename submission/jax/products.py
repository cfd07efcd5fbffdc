"""How matrices are multiplied and factorised where each device is fast, and safe."""

import functools
from collections.abc import Callable

import jax


def product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Multiplies `[groups, ...]` matrices; one group is a plain product."""
    if left.shape[0] == 1:
        # Batched products are slow on CPUs.
        return (left[0] @ right[0])[None]
    return left @ right


def in_turn_on_cpus(
    function: Callable[[jax.Array], jax.Array], matrices: jax.Array
) -> jax.Array:
    """Applies a function to matrices, on a CPU to one after the other.

    There batched products are slow, and jaxlib's factorisations of several matrices
    wait, inside a thread of a pool, for other threads of the same pool. With as many of
    them at once as there are threads all wait for ever: seen with two cores, jaxlib
    0.7.0 and 0.10.2.

    Args:
      function: Maps matrices `[..., rows, columns]` to as many of the same shape.
      matrices: The matrices.
    """
    return jax.lax.platform_dependent(
        matrices, cpu=functools.partial(_in_turn, function), default=function
    )


def _in_turn(
    function: Callable[[jax.Array], jax.Array], matrices: jax.Array
) -> jax.Array:
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    return jax.lax.map(function, flat).reshape(matrices.shape)
