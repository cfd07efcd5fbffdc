"""Products of small matrices."""

import jax


def product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Multiplies `[groups, ...]` matrices; one group is a plain product."""
    if left.shape[0] == 1:
        # Batched products are slow on CPUs.
        return (left[0] @ right[0])[None]
    return left @ right
