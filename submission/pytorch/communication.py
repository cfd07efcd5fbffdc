"""Sums over the processes of a distributed run; no-ops in a single process."""

from collections.abc import Mapping

import torch.distributed as dist
from torch import Tensor

from .approximations import FactorSums


def is_distributed() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """Number of this process among those that train together."""
    return dist.get_rank() if is_distributed() else 0


def all_reduce_sum(value: Tensor) -> Tensor:
    """Returns the sum over processes."""
    if not is_distributed():
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value


def all_reduce_sums(sums: Mapping[str, FactorSums]) -> None:
    """Adds up factor sums over processes, in place.

    Every process reaches the same layers, in the same order, as data-parallel
    training requires.
    """
    if not is_distributed():
        return
    for layer_sums in sums.values():
        for value in (layer_sums.inputs, layer_sums.input_count, layer_sums.gradients):
            dist.all_reduce(value)
