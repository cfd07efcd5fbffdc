"""K-FAC-expand and K-FAC-reduce: from rows in weight-sharing format to factors.

The notation is that of Eschenhagen et al. (2023), Section 3: N examples, R
positions (R_n where it varies), inputs a[n, r], gradients g[n, r] of the summed
loss with respect to the layer's output, M loss terms.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..rows import AmbiguousRowsError
from ..vanishing import rounding_share
from .matmul_precision import matmul_precision
from .weight_sharing import SharedTensor, sums_dtype

# From these dimensions on a Gram matrix is computed by half. An accelerator works on
# many tiles at once, of which a small matrix has too few to leave any out.
_HALVED_ON_CPU = 256
_HALVED_ON_ACCELERATORS = 1024
_BLOCK_MULTIPLE = 64


@dataclasses.dataclass
class FactorSums:
    """Sums from which the Kronecker factors of a layer follow.

    They add up over processes, each holding a part of the batch.

    Attributes:
      inputs: Sum of outer products on the input side,
        `[groups, d_in, d_in]`, d_in counting the bias.
      input_count: Number of outer products in `inputs`.
      gradients: Sum of outer products on the output side,
        `[groups, d_out, d_out]`.
    """

    inputs: Tensor
    input_count: Tensor
    gradients: Tensor

    def to(self, dtype: torch.dtype) -> 'FactorSums':
        """Returns the sums in another precision."""
        return FactorSums(
            self.inputs.to(dtype), self.input_count.to(dtype), self.gradients.to(dtype)
        )

    def kronecker_factors(
        self, loss_terms: Tensor | float, gradient_scale: Tensor | float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Returns A and B of the GGN block A kron B of the *mean* loss.

        The scale depends on the number of loss terms M alone, whichever
        approximation filled the sums.

        Args:
          loss_terms: M, the number of terms that the loss averages over.
          gradient_scale: What the gradients have to be multiplied with to be those
            of the summed loss: M if they came from the mean loss.
        """
        factor_a = self.inputs / self.input_count.clamp(min=1)
        factor_b = self.gradients * (gradient_scale**2 / loss_terms)
        return factor_a, factor_b


class ExpandSums:
    """K-FAC-expand: every position counts as an example of its own.

    A is the mean over all (n, r) of a aT, B is 1/M times the sum over all (n, r)
    of g gT (Equations 18 and 19 of the paper). A layer that is applied several
    times in a forward pass has that many times the positions. Where only some
    positions are taken, A is the mean over these, and the sum in B is scaled up.
    """

    sums_positions = False

    def __init__(self, bias: bool) -> None:
        self._bias = bias
        self._inputs: Tensor | None = None
        self._gradients: Tensor | None = None
        self._n_rows = 0

    def add_inputs(self, inputs: SharedTensor) -> None:
        """Adds the inputs of one application of the layer."""
        rows = inputs.rows()
        gram = _gram(rows)
        if self._bias:
            gram = _append_bias(gram, rows.sum(0, dtype=gram.dtype), rows.shape[0])
        self._inputs = gram if self._inputs is None else self._inputs + gram
        self._n_rows += rows.shape[0]

    def add_gradients(self, gradients: SharedTensor) -> None:
        """Adds the output gradients of one application of the layer."""
        gram = _gram(gradients.rows())
        if gradients.row_weight != 1.0:
            gram *= gradients.row_weight
        self._gradients = gram if self._gradients is None else self._gradients + gram

    def sums(self) -> FactorSums | None:
        """Returns the sums, or None if the layer was not reached both ways."""
        if self._inputs is None or self._gradients is None:
            return None
        # Filled on the device, so that no number has to travel there.
        count = self._inputs.new_full((), self._n_rows)
        return FactorSums(self._inputs, count, self._gradients)


class ReduceSums:
    """K-FAC-reduce: the positions of an example are reduced before any product.

    With `mean_inputs` A is the mean over n of the outer product of the inputs'
    mean over r, and B is 1/M times the sum over n of the outer product of the
    gradients' sum over r (Equation 22). With `sum_inputs` inputs are
    summed and gradients averaged, which is what a sum-pooled model with a varying
    number of positions calls for; where that number is constant, both are equal.

    Some gradients cancel over positions: those of attention keys do always, since a
    softmax does not change if all its inputs are shifted, and so do those of a
    convolution before a normalisation of its own output over all positions. What is
    left is rounding error of the precision that the gradients came in, and the factor
    is set to exactly zero.
    """

    sums_positions = True

    def __init__(self, bias: bool, normalisation: str) -> None:
        self._bias = bias
        self._mean_inputs = normalisation == 'mean_inputs'
        self._inputs: Tensor | None = None
        self._gradients: Tensor | None = None
        self._gradient_norms: list[Tensor] = []
        self._rounding = 0.0
        self._positions: Tensor | int | None = None

    def add_inputs(self, inputs: SharedTensor) -> None:
        """Adds the inputs of one application of the layer."""
        summed, positions = inputs.sum_over_positions(), inputs.positions()
        if self._inputs is None or self._positions is None:
            self._inputs, self._positions = summed, positions
        elif len(self._inputs) != len(summed):
            raise AmbiguousRowsError(
                f'A layer was applied to {len(self._inputs)} examples and then, in '
                f'the same forward pass, to {len(summed)}.'
            )
        else:
            self._inputs = self._inputs + summed
            self._positions = self._positions + positions

    def add_gradients(self, gradients: SharedTensor) -> None:
        """Adds the output gradients of one application of the layer."""
        summed = gradients.sum_over_positions()
        values = gradients.values
        norm = torch.linalg.vector_norm(values, dtype=summed.dtype)
        self._gradient_norms.append(norm)
        eps = torch.finfo(values.dtype).eps
        rounding = rounding_share(eps, gradients.rows_per_example)
        self._rounding = max(self._rounding, rounding)
        self._gradients = (
            summed if self._gradients is None else self._gradients + summed
        )

    def sums(self) -> FactorSums | None:
        """Returns the sums, or None if the layer was not reached both ways."""
        if self._inputs is None or self._gradients is None or self._positions is None:
            return None
        inputs, gradients = self._inputs, self._gradients
        gradients = gradients.masked_fill(self._cancelled(gradients), 0.0)
        positions = self._positions
        if isinstance(positions, Tensor):
            positions = positions[:, None, None]
            sums_of_ones = positions.expand(*inputs.shape[:-1], 1)
            # An example may have no position at all (a graph without edges).
            at_least_one: Tensor | int = positions.clamp(min=1)
            # Only examples with a position have an input to average over.
            count = (positions > 0).sum().to(inputs.dtype)
        else:
            sums_of_ones = inputs.new_full((*inputs.shape[:-1], 1), positions)
            at_least_one = max(positions, 1)
            count = inputs.new_full((), len(inputs) if positions else 0)
        if self._bias:
            # The bias's input is 1 at every position, so its sum is R_n.
            inputs = torch.cat([inputs, sums_of_ones], -1)
        if self._mean_inputs:
            inputs = inputs / at_least_one
        else:
            gradients = gradients / at_least_one
        return FactorSums(_gram(inputs), count, _gram(gradients))

    def _cancelled(self, gradients: Tensor) -> Tensor:
        """Returns whether their sums over positions are rounding error."""
        norms = self._gradient_norms
        norm = (
            norms[0]
            if len(norms) == 1
            else torch.linalg.vector_norm(torch.stack(norms))
        )
        return torch.linalg.vector_norm(gradients) < self._rounding * norm


def _gram(rows: Tensor) -> Tensor:
    """Sums the outer products of rows, `[rows, G, d]` to `[G, d, d]`.

    Rows in bfloat16 are multiplied as they are, at the hardware's speed, which sums in
    single precision; the result is in that of `sums_dtype`.
    """
    dtype = sums_dtype(rows.dtype)
    if rows.dtype == torch.float16:
        # A sum of squares soon passes what it holds.
        rows = rows.to(dtype)
    with matmul_precision(rows, 'tf32'):
        if rows.shape[1] == 1:
            matrix = rows.squeeze(1)
            n_rows, dim = matrix.shape
            blocks = gram_blocks(n_rows, dim, rows.is_cpu)
            gram = _matrix_gram(matrix, blocks).unsqueeze(0)
        else:
            by_group = rows.transpose(0, 1)
            gram = by_group.transpose(1, 2) @ by_group
    return gram.to(dtype)


def gram_blocks(n_rows: int, dim: int, on_cpu: bool) -> list[tuple[int, int]]:
    """Returns the blocks of rows in which a Gram matrix `[dim, dim]` is computed.

    Of each block only what lies from its first column on is computed, so four of them
    take 5/8 of the whole product. More would save little more, and smaller products
    take longer for each operation.

    Args:
      n_rows: Number of outer products that are summed.
      dim: Their dimension.
      on_cpu: Whether a CPU computes them, or else an accelerator.

    Returns:
      First row, and row after the last, of each block.
    """
    from_dim = _HALVED_ON_CPU if on_cpu else _HALVED_ON_ACCELERATORS
    if dim < from_dim or n_rows < dim:
        return [(0, dim)]
    size = math.ceil(dim / 4 / _BLOCK_MULTIPLE) * _BLOCK_MULTIPLE
    return [(start, min(start + size, dim)) for start in range(0, dim, size)]


def _matrix_gram(matrix: Tensor, blocks: Sequence[tuple[int, int]]) -> Tensor:
    """Returns `matrix.T @ matrix`, below the blocks copied from what is above."""
    if len(blocks) == 1:
        return matrix.T @ matrix
    dim = matrix.shape[1]
    gram = matrix.new_empty(dim, dim)
    for start, stop in blocks:
        block = gram[start:stop, start:]
        torch.mm(matrix[:, start:stop].T, matrix[:, start:], out=block)
        gram[stop:, start:stop] = gram[start:stop, stop:].T
    return gram


def _append_bias(gram: Tensor, row_sum: Tensor, n_rows: int) -> Tensor:
    """Extends the Gram matrix of rows to that of rows with a 1 appended."""
    groups, d = row_sum.shape
    extended = gram.new_empty(groups, d + 1, d + 1)
    extended[:, :d, :d] = gram
    extended[:, :d, d] = row_sum
    extended[:, d, :d] = row_sum
    extended[:, d, d] = n_rows
    return extended
