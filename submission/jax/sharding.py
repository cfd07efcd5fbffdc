"""Arrays on all devices: AlgoPerf splits batches over them and copies all else."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


@functools.cache
def _mesh() -> Mesh:
    return Mesh(np.asarray(jax.devices()), ('batch',))


def replicated() -> NamedSharding:
    """Returns the sharding of parameters and state: a copy on every device."""
    return NamedSharding(_mesh(), PartitionSpec())


def replicate(tree: Any) -> Any:
    """Copies arrays to all devices."""
    return jax.device_put(tree, replicated())


def shard_batch(batch: Any) -> Any:
    """Splits arrays along their first axis over all devices.

    One that cannot be split evenly is copied to all of them.
    """
    split = NamedSharding(_mesh(), PartitionSpec('batch'))
    n_devices = _mesh().size

    def sharding(value: Any) -> NamedSharding:
        shape = np.shape(value)
        return split if shape and shape[0] % n_devices == 0 else replicated()

    return jax.device_put(batch, jax.tree.map(sharding, batch))


def in_shares(function: Callable[..., jax.Array], *stacks: jax.Array) -> jax.Array:
    """Applies a function to stacks `[n, ...]`, an equal share of them on each device.

    Args:
      function: Maps stacks of any one length to one of the same length, member by
        member.
      *stacks: The same on all devices.
    """
    n_devices, n = _mesh().size, len(stacks[0])
    # Members that stand in where n is not a multiple; their results are dropped.
    filled = np.arange(-(-n // n_devices) * n_devices) % n
    split = PartitionSpec('batch')
    shared = jax.shard_map(
        function, mesh=_mesh(), in_specs=split, out_specs=split, check_vma=False
    )
    return shared(*(stack[filled] for stack in stacks))[:n]


def as_trained(*trees: Any) -> tuple[Any, ...]:
    """Returns arrays as a step returns them; new and restored ones are not.

    A step that gets arrays of another sharding would be compiled once more. A new
    model's are on one device. AlgoPerf restores checkpoints with a leading axis of
    copies, one for each device, or as plain arrays of numpy, by version; the last
    leaf of the first tree, a scalar counter, tells.
    """
    probe = jax.tree.leaves(trees[0])[-1]
    if np.ndim(probe):
        trees = jax.tree.map(lambda copies: np.asarray(copies[0]), trees)
    leaves = jax.tree.leaves(trees)
    if all(getattr(leaf, 'sharding', None) == replicated() for leaf in leaves):
        return trees
    return replicate(trees)
