"""Parameters by name: the names under which a pytree's leaves are spoken of."""

from typing import Any

import jax


def flatten(tree: Any) -> dict[str, Any]:
    """Returns leaf name, parts joined by '/', to leaf."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {'/'.join(_part(key) for key in path): leaf for path, leaf in leaves}


def unflatten(named: dict[str, Any], like: Any) -> Any:
    """Puts the leaves that `flatten` named back into a tree of the same shape."""
    return jax.tree.unflatten(
        jax.tree.structure(like), [named[name] for name in flatten(like)]
    )


def _part(key: Any) -> str:
    for attribute in ('key', 'name', 'idx'):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
