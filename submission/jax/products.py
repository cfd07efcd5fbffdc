"""How matrices are multiplied and factorised where each device is fast, and safe."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from .sharding import in_shares


def product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Multiplies `[groups, ...]` matrices; one group is a plain product."""
    if left.shape[0] == 1:
        # Batched products are slow on CPUs.
        return (left[0] @ right[0])[None]
    return left @ right


def by_layer(
    function: Callable[..., jax.Array],
    *matrices: Mapping[str, jax.Array],
    on_all_devices: bool = False,
) -> dict[str, jax.Array]:
    """Applies a function to matrices of each layer, to layers of equal shape together.

    A compiler takes its time for each operation and an accelerator for each launch.

    Args:
      function: Maps matrices `[..., rows, columns]`, one of each kind, to another.
      *matrices: Layer name to matrices `[groups, rows, columns]`, each a kind. Layers
        with equal shapes of the first kind have equal shapes of all.
      on_all_devices: Whether each device computes a share; all is then the same on all
        of them.

    Returns:
      Layer name to what the function returns.
    """
    function = functools.partial(in_turn_on_cpus, function)
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name, matrix in matrices[0].items():
        by_shape.setdefault(matrix.shape, []).append(name)
    found: dict[str, jax.Array] = {}
    for names in by_shape.values():
        stacks = (jnp.stack([kind[name] for name in names]) for kind in matrices)
        # Of a single layer there is nothing to share out.
        if on_all_devices and len(names) > 1:
            outcome = in_shares(function, *stacks)
        else:
            outcome = function(*stacks)
        found.update(zip(names, outcome, strict=True))
    return found


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
