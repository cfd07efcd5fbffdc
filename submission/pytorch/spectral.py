"""Steepest descent under the spectral norm, in the metric of the curvature.

With the damped factors A and B of a layer and the momentum M of its gradient, the
direction U that has the largest product with M among all with
||B**(1/2) U A**(1/2)|| <= 1, in the spectral norm, is

    U = R_b.T polar(R_b M R_a.T) R_a,   R.T R the inverse of a factor,

where polar(W) = P Q.T for the singular value decomposition W = P S Q.T. It does not
depend on which roots R are taken. Without curvature (A and B the identity) this is the
direction of Muon (Jordan et al., 2024), whose iteration for the polar factor is used;
with curvature it moves as far in each direction as the model's output allows, not its
parameters.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .kfac_layer import KFACLayer
from .stacks import Factors, joined
from .weight_sharing import sums_dtype

# Root mean square of a layer's update, which is about that of AdamW's (Liu et al.,
# 2025, Section 2.2), so that the learning rates and weight decays of both agree.
UPDATE_RMS = 0.2
# Jordan et al.: fast for small singular values, which end between 0.7 and 1.2.
_POLYNOMIAL = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 6


def polar_factors(matrices: Tensor) -> Tensor:
    """Returns about P Q.T for matrices P S Q.T, `[n, rows, columns]`; 0 for 0."""
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    norms = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    x = torch.where(norms > 0, x / norms, 0.0)
    a, b, c = _POLYNOMIAL
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    return x.mT if is_tall else x


class SpectralStack:
    """Layers of equal shapes, and the roots of their inverses one behind the other.

    Attributes:
      layers: The layers.
    """

    def __init__(self, layers: Sequence[KFACLayer], factors: Sequence[Factors]) -> None:
        """Joins the roots; those of the factors become parts of the joined ones.

        Args:
          layers: The layers.
          factors: Factors A and B of each.
        """
        self.layers = list(layers)
        self._root_a, self._root_b = (
            joined(side, 'inverse_root') for side in zip(*factors, strict=True)
        )

    def directions(self, momenta: Sequence[Sequence[Tensor]]) -> Iterator[list[Tensor]]:
        """Yields each layer's direction, of root mean square `UPDATE_RMS`.

        Args:
          momenta: For each layer those of its weight and, if it has one, its bias.
        """
        shapes = self.layers[0]
        parts = [torch.stack(part) for part in zip(*momenta, strict=True)]
        matrices = shapes.to_matrix(parts).flatten(0, 1)
        # Roots are at least in single precision, whatever the parameters are in.
        matrices = matrices.to(sums_dtype(matrices.dtype))
        if self._root_b is not None:
            matrices = torch.bmm(self._root_b, matrices)
        if self._root_a is not None:
            matrices = torch.bmm(matrices, self._root_a.mT)
        matrices = polar_factors(matrices)
        if self._root_b is not None:
            matrices = torch.bmm(self._root_b.mT, matrices)
        if self._root_a is not None:
            matrices = torch.bmm(matrices, self._root_a)
        outcome = matrices.unflatten(0, (len(self.layers), shapes.groups))
        size = outcome.square().mean((1, 2, 3), keepdim=True).sqrt()
        outcome = torch.where(size > 0, outcome * (UPDATE_RMS / size), 0.0)
        outcome = outcome.to(parts[0].dtype)
        for layer_parts in zip(
            *(part.unbind() for part in shapes.from_matrix(outcome)), strict=True
        ):
            yield list(layer_parts)
