"""How matrices are multiplied and factorised where each device is fast, and safe."""

import functools
from collections.abc import Callable

import jax

from .sharding import in_shares


def by_member(
    function: Callable[..., jax.Array],
    *stacks: jax.Array,
    on_all_devices: bool = False,
) -> jax.Array:
    """Applies a function to all members of stacks.

    Args:
      function: Maps matrices `[..., rows, columns]`, one of each stack, to another.
      *stacks: Matrices `[n, groups, rows, columns]`.
      on_all_devices: Whether each device computes a share; all is then the same on all
        of them.

    Returns:
      The stack of what the function returns.
    """
    function = functools.partial(in_turn_on_cpus, function)
    # Of a single member there is nothing to share out.
    if on_all_devices and len(stacks[0]) > 1:
        return in_shares(function, *stacks)
    return function(*stacks)


def in_turn_on_cpus(
    function: Callable[..., jax.Array], *matrices: jax.Array
) -> jax.Array:
    """Applies a function to stacks of matrices, on a CPU to one after the other.

    There batched products are slow, and jaxlib's factorisations of several matrices
    wait, inside a thread of a pool, for other threads of the same pool. With as many of
    them at once as there are threads all wait for ever: seen with two cores, jaxlib
    0.7.0 and 0.10.2.

    Args:
      function: Maps matrices `[..., rows, columns]`, one of each stack, to another.
      *matrices: Stacks of matrices, all with the same dimensions before the last two.
    """
    return jax.lax.platform_dependent(
        *matrices, cpu=functools.partial(_in_turn, function), default=function
    )


def _in_turn(function: Callable[..., jax.Array], *matrices: jax.Array) -> jax.Array:
    leading = matrices[0].shape[:-2]
    flat = [stack.reshape(-1, *stack.shape[-2:]) for stack in matrices]
    found = jax.lax.map(lambda one: function(*one), flat)
    return found.reshape(*leading, *found.shape[-2:])
