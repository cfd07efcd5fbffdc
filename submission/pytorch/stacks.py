"""Which layers are preconditioned together.

An accelerator takes less time for the products of a small layer than the host takes to
ask for them. There layers of equal shapes share one product. A CPU would only copy
more, but for the many products of the spectral rule.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from .factors import KroneckerFactor
from .kfac_layer import KFACLayer
from .weight_sharing import sums_dtype

Factors = tuple[KroneckerFactor, KroneckerFactor]


class LayerStack:
    """Layers of equal shapes, and something of their factors one behind the other.

    Attributes:
      joins: What of the factors is joined, by the name of their attribute.
      layers: The layers.
    """

    joins: ClassVar[str]

    def __init__(self, layers: Sequence[KFACLayer], factors: Sequence[Factors]) -> None:
        """Joins; what the factors have becomes parts of the joined.

        Args:
          layers: The layers.
          factors: Factors A and B of each.
        """
        self.layers = list(layers)
        self._joined_a, self._joined_b = (
            _joined(side, self.joins) for side in zip(*factors, strict=True)
        )

    def _matrices(self, parts: Sequence[Sequence[Tensor]]) -> Tensor:
        """Returns matrices `[layers * groups, d_out, d_in]`.

        Args:
          parts: For each layer that of its weight and, if it has one, its bias.
        """
        stacked = [torch.stack(part) for part in zip(*parts, strict=True)]
        return self.layers[0].to_matrix(stacked).flatten(0, 1)

    def _split(self, matrices: Tensor) -> Iterator[list[Tensor]]:
        """Undoes `_matrices`, yielding the parts of each layer."""
        shapes = self.layers[0]
        matrices = matrices.unflatten(0, (len(self.layers), shapes.groups))
        for layer_parts in zip(
            *(part.unbind() for part in shapes.from_matrix(matrices)), strict=True
        ):
            yield list(layer_parts)


S = TypeVar('S', bound=LayerStack)


class Stack(LayerStack):
    """Layers of equal shapes, and their inverses one behind the other."""

    joins = 'inverse'

    def precondition(
        self, gradients: Sequence[Sequence[Tensor]]
    ) -> Iterator[list[Tensor]]:
        """Yields the preconditioned gradients of each layer.

        Args:
          gradients: For each layer those of its weight and, if it has one, its bias.
        """
        matrices = self._matrices(gradients)
        yield from self._split(preconditioned(matrices, self._joined_a, self._joined_b))


def preconditioned(
    matrices: Tensor, inverse_a: Tensor | None, inverse_b: Tensor | None
) -> Tensor:
    """Returns B**-1 G A**-1 for each of the matrices G.

    Args:
      matrices: Shape `[n, d_out, d_in]`.
      inverse_a: Shape `[n, d_in, d_in]`; None leaves it out.
      inverse_b: Shape `[n, d_out, d_out]`; None leaves it out.
    """
    dtype, precise = matrices.dtype, sums_dtype(matrices.dtype)
    # Inverses are at least in single precision, whatever the parameters are in.
    if dtype != precise:
        matrices = matrices.to(precise)
    # Not `@`, which first looks for axes to broadcast: small layers pay for that.
    if inverse_b is not None:
        matrices = torch.bmm(inverse_b, matrices)
    if inverse_a is not None:
        matrices = torch.bmm(matrices, inverse_a)
    return matrices if dtype == precise else matrices.to(dtype)


def gains_from_stacks(layer: KFACLayer) -> bool:
    """Returns whether a layer is where one product is better than several."""
    return not layer.weight.is_cpu


def make_stacks(
    kind: type[S], layers: Sequence[KFACLayer], factors: Sequence[Factors]
) -> list[S]:
    """Spreads layers over stacks.

    Args:
      kind: Kind of the stacks; all factors in one have what it joins, or none.
      layers: The layers.
      factors: Factors A and B of each.
    """
    members: dict[object, list[int]] = {}
    for index, (layer, sides) in enumerate(zip(layers, factors, strict=True)):
        key = (
            type(layer),
            layer.weight.shape,
            layer.weight.dtype,
            layer.weight.device,
            layer.groups,
            layer.bias is None,
            *(getattr(factor, kind.joins) is None for factor in sides),
        )
        members.setdefault(key, []).append(index)
    return [
        kind([layers[i] for i in indices], [factors[i] for i in indices])
        for indices in members.values()
    ]


def _joined(factors: Sequence[KroneckerFactor], attribute: str) -> Tensor | None:
    """Joins what factors have as one attribute, `[groups, d, d]`; None if one has none.

    What the factors have becomes a part of the joined, lest it be there twice.
    """
    values = [getattr(factor, attribute) for factor in factors]
    if any(value is None for value in values):
        return None
    together = torch.cat(values)
    parts = together.split(len(values[0]))
    for factor, part in zip(factors, parts, strict=True):
        setattr(factor, attribute, part)
    return together
