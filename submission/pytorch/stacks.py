"""Which layers are preconditioned together.

An accelerator takes less time for the products of a small layer than the host takes to
ask for them. There layers of equal shapes share one product. A CPU would only copy
more, but for the many products of the spectral rule.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from .factors import KroneckerFactor
from .kfac_layer import KFACLayer
from .weight_sharing import sums_dtype

Factors = tuple[KroneckerFactor, KroneckerFactor]
S = TypeVar('S')


class Stack:
    """Layers of equal shapes, and their inverses one behind the other.

    Attributes:
      layers: The layers.
    """

    def __init__(self, layers: Sequence[KFACLayer], factors: Sequence[Factors]) -> None:
        """Joins the inverses; those of the factors become parts of the joined ones.

        Args:
          layers: The layers.
          factors: Factors A and B of each.
        """
        self.layers = list(layers)
        self._inverse_a, self._inverse_b = (
            joined(side, 'inverse') for side in zip(*factors, strict=True)
        )

    def precondition(
        self, gradients: Sequence[Sequence[Tensor]]
    ) -> Iterator[list[Tensor]]:
        """Yields the preconditioned gradients of each layer.

        Args:
          gradients: For each layer those of its weight and, if it has one, its bias.
        """
        shapes = self.layers[0]
        parts = [torch.stack(part) for part in zip(*gradients, strict=True)]
        matrices = shapes.to_matrix(parts).flatten(0, 1)
        outcome = preconditioned(matrices, self._inverse_a, self._inverse_b)
        outcome = outcome.unflatten(0, (len(self.layers), shapes.groups))
        for layer_parts in zip(
            *(part.unbind() for part in shapes.from_matrix(outcome)), strict=True
        ):
            yield list(layer_parts)


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
    make: Callable[[Sequence[KFACLayer], Sequence[Factors]], S],
    attribute: str,
    layers: Sequence[KFACLayer],
    factors: Sequence[Factors],
) -> list[S]:
    """Spreads layers over stacks.

    Args:
      make: Makes a stack from layers of equal shapes and their factors A and B.
      attribute: What of the factors the stack joins; all in it have that, or none.
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
            *(getattr(factor, attribute) is None for factor in sides),
        )
        members.setdefault(key, []).append(index)
    return [
        make([layers[i] for i in indices], [factors[i] for i in indices])
        for indices in members.values()
    ]


def joined(factors: Sequence[KroneckerFactor], attribute: str) -> Tensor | None:
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
