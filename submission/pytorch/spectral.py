"""Steepest descent under the spectral norm, in the metric of the curvature."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..spectral import ITERATIONS, POLYNOMIAL, UPDATE_RMS
from .stacks import LayerStack, preconditioned
from .weight_sharing import sums_dtype


def polar_factors(matrices: Tensor) -> Tensor:
    """Returns about P Q.T for matrices P S Q.T, `[n, rows, columns]`; 0 for 0."""
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    # First by the largest entry, since squares of small ones underflow. Those that are
    # hardly numbers any more would not survive that.
    largest = torch.linalg.vector_norm(x, ord=torch.inf, dim=(-2, -1), keepdim=True)
    x = torch.where(largest > torch.finfo(x.dtype).tiny, x / largest, 0.0)
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    # Either zero or at least 1.
    x = x / norm.clamp(min=1.0)
    a, b, c = POLYNOMIAL
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    return x.mT if is_tall else x


class SpectralStack(LayerStack):
    """Layers of equal shapes, and the roots of their inverses one behind the other."""

    joins = 'inverse_root'

    def directions(
        self,
        momenta: Sequence[Sequence[Tensor]],
        gradients: Sequence[Sequence[Tensor]],
    ) -> Iterator[list[Tensor]]:
        """Yields each layer's direction, of root mean square `UPDATE_RMS`.

        Args:
          momenta: For each layer those of its weight and, if it has one, its bias.
          gradients: The gradients of this step; where they are zero the direction is.
        """
        matrices = self._matrices(momenta)
        dtype = matrices.dtype
        # Roots are at least in single precision, whatever the parameters are in.
        matrices = matrices.to(sums_dtype(dtype))
        root_a, root_b = self._joined_a, self._joined_b
        matrices = polar_factors(preconditioned(matrices, _transposed(root_a), root_b))
        matrices = preconditioned(matrices, root_a, _transposed(root_b))
        of_layers = matrices.unflatten(0, (len(self.layers), -1))
        size = of_layers.square().mean((1, 2, 3)).sqrt()
        moves = (size > 0) & _not_zero(gradients)
        scale = torch.where(moves, UPDATE_RMS / size, 0.0)
        outcome = (of_layers * scale[:, None, None, None]).to(dtype)
        yield from self._split(outcome.flatten(0, 1))


def _transposed(matrices: Tensor | None) -> Tensor | None:
    return None if matrices is None else matrices.mT


def _not_zero(gradients: Sequence[Sequence[Tensor]]) -> Tensor:
    """Returns whether a layer has a gradient other than zero, `[layers]` booleans."""
    sizes = torch._foreach_norm(
        [part for parts in gradients for part in parts], ord=torch.inf
    )
    return (torch.stack(sizes).unflatten(0, (len(gradients), -1)) > 0).any(1)
