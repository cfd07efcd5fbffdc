"""AlgoPerf's two ways to lay arrays out over all devices."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def _sharding(*axes: str) -> NamedSharding:
    mesh = Mesh(np.asarray(jax.devices()), ('batch',))
    return NamedSharding(mesh, PartitionSpec(*axes))


def replicated_sharding() -> NamedSharding:
    """Returns the sharding with a copy on every device."""
    return _sharding()


def batch_sharding() -> NamedSharding:
    """Returns the sharding that cuts the first axis into a part for each device."""
    return _sharding('batch')
