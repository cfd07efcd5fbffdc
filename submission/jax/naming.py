"""Parameters by name: the names under which a pytree's leaves are spoken of."""

from typing import Any

import jax
from flax.core import meta


def flatten(tree: Any) -> dict[str, Any]:
    """Returns leaf name, parts joined by '/', to leaf.

    Values that Flax has put in a box with their metadata, as `nn.with_partitioning`
    does, are taken out of it.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(
        tree, is_leaf=meta.is_axis_metadata
    )
    return {
        '/'.join(_part(key) for key in path): _unboxed(leaf) for path, leaf in leaves
    }


def unflatten(named: dict[str, Any], like: Any) -> Any:
    """Puts the leaves that `flatten` named back into a tree of the same shape."""
    return jax.tree.unflatten(
        jax.tree.structure(like), [named[name] for name in flatten(like)]
    )


def _unboxed(leaf: Any) -> Any:
    if not meta.is_axis_metadata(leaf):
        return leaf
    # The box's own `unbox` would also ask for the sharding that the box is about.
    (value,) = jax.tree.leaves(leaf)
    return value


def _part(key: Any) -> str:
    for attribute in ('key', 'name', 'idx'):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
