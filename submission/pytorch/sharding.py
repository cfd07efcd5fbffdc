"""Work and statistics that the processes of a distributed run share.

Every process holds the same model, and so the same list of layers and, after each
exchange, the same factors and gradients. Who inverts which factor, and who
preconditions the gradient of which layer, follows from their sizes, without a word
between the processes.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from ..spectral import ITERATIONS
from . import communication
from .approximations import FactorSums
from .factors import KroneckerFactor, bias_corrected
from .inverses import DampedInverse, damped_inverses
from .kfac_layer import KFACLayer
from .packing import pack_symmetric, packed_size, unpack_symmetric
from .weight_sharing import sums_dtype

_STATISTICS = 'factor statistics'
_INVERSES = 'inverses of the factors'

LayersFunction = Callable[[Sequence[KFACLayer]], Mapping[str, Tensor]]


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


def preconditioning_cost(groups: int, d_out: int, d_in: int) -> int:
    """Returns the multiplications of a layer's preconditioning."""
    return groups * (d_out**2 * d_in + d_out * d_in**2)


def direction_cost(groups: int, d_out: int, d_in: int) -> int:
    """Returns those of its direction by the spectral rule, in products."""
    small, large = sorted((d_out, d_in))
    iteration = 2 * small**2 * large + small**3
    # Roots on both sides, before and after the polar factor.
    roots = 2 * preconditioning_cost(groups, d_out, d_in)
    return roots + groups * ITERATIONS * iteration


def in_shares(
    compute: LayersFunction,
    layers: Sequence[KFACLayer],
    cost: Callable[[int, int, int], int],
    like: Mapping[str, Tensor],
    what: str,
) -> dict[str, Tensor]:
    """Computes something for each layer in one process, and hands it to all.

    Args:
      compute: Maps some of the layers to what is computed for them, by parameter name.
      layers: The layers, the same in all processes.
      cost: What that takes, of a layer's groups, d_out and d_in.
      like: Parameter name to a tensor of the shape and precision of what is computed,
        for each parameter that it is asked for.
      what: Name of what is computed.

    Returns:
      What is computed, the same in all processes, by the names in `like`.
    """
    if not communication.is_distributed():
        found = compute(layers)
        return {name: found[name] for name in found if name in like}
    shapes = [(layer.groups, layer.output_dim, layer.input_dim) for layer in layers]
    ranks = _owners(tuple(shapes), cost, communication.world_size())
    owned: list[list[KFACLayer]] = [[] for _ in range(communication.world_size())]
    for layer, rank in zip(layers, ranks, strict=True):
        owned[rank].append(layer)
    names_by_rank = [
        [name for layer in of_rank for name in layer.parameter_names if name in like]
        for of_rank in owned
    ]
    return _gathered(compute(owned[communication.rank()]), names_by_rank, like, what)


@functools.cache
def _owners(
    shapes: tuple[tuple[int, int, int], ...],
    cost: Callable[[int, int, int], int],
    n_ranks: int,
) -> list[int]:
    # Asked for in every step, always of the same layers.
    return balanced_owners([cost(*shape) for shape in shapes], n_ranks)


def _gathered(
    own: Mapping[str, Tensor],
    names_by_rank: Sequence[Sequence[str]],
    like: Mapping[str, Tensor],
    what: str,
) -> dict[str, Tensor]:
    """Hands tensors, each from one process, to all.

    One operation for each precision carries everything.
    """
    gathered: dict[str, Tensor] = {}
    everything = [name for names in names_by_rank for name in names]
    for dtype in dict.fromkeys(like[name].dtype for name in everything):
        names_of = [
            [name for name in names if like[name].dtype == dtype]
            for names in names_by_rank
        ]
        sizes_of = [[like[name].numel() for name in names] for names in names_of]
        probe = like[next(name for name in everything if like[name].dtype == dtype)]
        # What is gathered has to be of one length.
        message = probe.new_zeros(max(map(sum, sizes_of)))
        mine = [own[name].flatten() for name in names_of[communication.rank()]]
        if mine:
            torch.cat(mine, out=message[: sum(map(len, mine))])
        messages = communication.all_gather(message, what)
        for names, sizes, found in zip(names_of, sizes_of, messages, strict=True):
            parts = found[: sum(sizes)].split(sizes) if sizes else ()
            for name, part in zip(names, parts, strict=True):
                gathered[name] = part.view_as(like[name])
    return gathered


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
