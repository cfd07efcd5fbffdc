"""Work and statistics that the processes of a distributed run share.

Every process holds the same model, and so the same list of layers and, after each
exchange, the same factors. Who inverts which factor follows from their sizes, without
a word between the processes.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from . import communication
from .approximations import FactorSums
from .factors import KroneckerFactor, bias_corrected
from .inverses import DampedInverse, damped_inverses
from .kfac_layer import KFACLayer
from .packing import pack_symmetric, packed_size, unpack_symmetric
from .weight_sharing import sums_dtype

_STATISTICS = 'factor statistics'
_INVERSES = 'inverses of the factors'


def balanced_owners(costs: Sequence[float], n_ranks: int) -> list[int]:
    """Spreads jobs over ranks: the longest first, each to who has the least to do.

    Args:
      costs: What each job takes.
      n_ranks: Number of ranks.

    Returns:
      The rank of each job; the same wherever it is asked.
    """
    loads = [0.0] * n_ranks
    owners = [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda i: -costs[i]):
        owners[index] = loads.index(min(loads))
        loads[owners[index]] += costs[index]
    return owners


def sum_over_processes(
    layers: Sequence[KFACLayer],
    sums: Mapping[str, FactorSums],
    ambiguous: Collection[str],
) -> tuple[dict[str, FactorSums], Tensor]:
    """Adds up the factor sums of several processes.

    A process whose part of the batch does not reach a layer adds nothing to it, and
    takes part in the exchange all the same. One operation for each precision carries
    everything, of each matrix one half.

    Args:
      layers: All layers of the model.
      sums: Layer name to the sums of this process, where it reached the layer.
      ambiguous: Names of the layers whose rows it could not tell apart.

    Returns:
      Layer name to sums, and a tensor that says in the same order whether they are
      usable: not zero if a process reached the layer and none found it ambiguous.
    """
    if not layers:
        return {}, torch.ones(0)
    if not communication.is_distributed():
        return dict(sums), torch.ones(len(sums), device=layers[0].weight.device)
    totals: dict[str, FactorSums] = {}
    usable = []
    by_dtype: dict[torch.dtype, list[KFACLayer]] = {}
    for layer in layers:
        by_dtype.setdefault(sums_dtype(layer.weight.dtype), []).append(layer)
    for members in by_dtype.values():
        packed = [
            part
            for layer in members
            for part in _packed_sums(layer, sums.get(layer.name), ambiguous)
        ]
        buffer = communication.all_reduce_sum(torch.cat(packed), _STATISTICS)
        parts = iter(buffer.split([len(part) for part in packed]))
        for layer in members:
            counts, inputs, gradients = next(parts), next(parts), next(parts)
            n_reached, n_ambiguous, input_count = counts.unbind()
            usable.append(n_reached * (n_ambiguous == 0))
            totals[layer.name] = FactorSums(
                unpack_symmetric(inputs, layer.groups, layer.input_dim),
                input_count,
                unpack_symmetric(gradients, layer.groups, layer.output_dim),
            )
    return totals, torch.stack(usable)


def _packed_sums(
    layer: KFACLayer, sums: FactorSums | None, ambiguous: Collection[str]
) -> list[Tensor]:
    """Returns counts, inputs and gradients, each with one axis."""
    dtype = sums_dtype(layer.weight.dtype)
    counts = layer.weight.new_zeros(3, dtype=dtype)
    if layer.name in ambiguous:
        counts[1] = 1.0
    if sums is None:
        return [
            counts,
            counts.new_zeros(packed_size(layer.groups, layer.input_dim)),
            counts.new_zeros(packed_size(layer.groups, layer.output_dim)),
        ]
    counts[0] = 1.0
    counts[2] = sums.input_count
    return [
        counts,
        pack_symmetric(sums.inputs),
        pack_symmetric(sums.gradients),
    ]


def sharded_inverses(
    factors: Sequence[KroneckerFactor], damping: float, as_roots: bool = False
) -> list[DampedInverse]:
    """Inverts factors, each in one process, and hands the inverses to all.

    Whether a factorisation failed travels with it, so all come to know the same.

    Args:
      factors: Factors with an average, the same in all processes.
      damping: As in `damped_inverses`.
      as_roots: Whether the inverses are given by their roots.

    Returns:
      One inverse for each factor, in their order, the same in all processes.
    """
    n_ranks, rank = communication.world_size(), communication.rank()
    averages = [factor.average for factor in factors]
    shapes = [average.shape for average in averages]
    owners = balanced_owners([groups * d**3 for groups, d, _ in shapes], n_ranks)
    own = [index for index, owner in enumerate(owners) if owner == rank]
    inverses = dict(
        zip(
            own,
            damped_inverses(
                bias_corrected([factors[i] for i in own]), damping, as_roots
            ),
            strict=True,
        )
    )
    if n_ranks > 1:
        messages: dict[tuple[int, torch.dtype], list[int]] = {}
        for index, owner in enumerate(owners):
            messages.setdefault((owner, averages[index].dtype), []).append(index)
        for (owner, _), indices in messages.items():
            sizes = [2 + packed_size(*shapes[index][:2]) for index in indices]
            if owner == rank:
                message = torch.cat([_packed_inverse(inverses[i]) for i in indices])
            else:
                message = averages[indices[0]].new_empty(sum(sizes))
            communication.broadcast(message, owner, _INVERSES)
            for index, part in zip(indices, message.split(sizes), strict=True):
                groups, dim = shapes[index][:2]
                inverses[index] = _unpacked_inverse(part, groups, dim, as_roots)
    return [inverses[index] for index in range(len(factors))]


def _packed_inverse(computed: DampedInverse) -> Tensor:
    head = torch.stack([computed.succeeded.to(computed.scale.dtype), computed.scale])
    # Of a root, which is triangular, half is enough as well.
    return torch.cat([head, pack_symmetric(computed.matrix)])


def _unpacked_inverse(
    part: Tensor, groups: int, dim: int, is_root: bool
) -> DampedInverse:
    matrix = unpack_symmetric(part[2:], groups, dim)
    if is_root:
        matrix = matrix.tril()
    # The scale is copied, lest it keep the whole message in memory.
    return DampedInverse(matrix, part[1].clone(), part[0] > 0)
