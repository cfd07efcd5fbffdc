"""K-FAC-expand and K-FAC-reduce: from rows in weight-sharing format to factors.

The notation is that of Eschenhagen et al. (2023), Section 3: N examples, R
positions (R_n where it varies), inputs a[n, r], gradients g[n, r] of the summed
loss with respect to the layer's output, M loss terms.

Both approximations first accumulate sums over the applications of a layer in one
forward pass; the sums are plain arrays that add up. `factor_sums` then turns them
into the sums from which the Kronecker factors follow.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..vanishing import rounding_share
from .kfac_layer import KFACLayer
from .weight_sharing import SharedTensor

Accumulators = dict[str, jax.Array]


class FactorSums(NamedTuple):
    """Sums from which the Kronecker factors of a layer follow.

    Attributes:
      inputs: Sum of outer products on the input side,
        `[groups, d_in, d_in]`, d_in counting the bias.
      input_count: Number of outer products in `inputs`.
      gradients: Sum of outer products on the output side,
        `[groups, d_out, d_out]`.
    """

    inputs: jax.Array
    input_count: jax.Array
    gradients: jax.Array

    def kronecker_factors(
        self, loss_terms: jax.Array | float, gradient_scale: jax.Array | float = 1.0
    ) -> tuple[jax.Array, jax.Array]:
        """Returns A and B of the GGN block A kron B of the *mean* loss.

        The scale depends on the number of loss terms M alone, whichever
        approximation filled the sums.

        Args:
          loss_terms: M, the number of terms that the loss averages over.
          gradient_scale: What the gradients have to be multiplied with to be those
            of the summed loss: M if they came from the mean loss.
        """
        factor_a = self.inputs / jnp.maximum(self.input_count, 1)
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

    def accumulators(
        self, layer: KFACLayer, n_examples: int, dtype: jnp.dtype
    ) -> Accumulators:
        """Returns sums that nothing has been added to yet."""
        del n_examples
        d_in, d_out = layer.input_dim, layer.output_dim
        return {
            'inputs': jnp.zeros((layer.groups, d_in, d_in), dtype),
            'input_count': jnp.zeros((), dtype),
            'gradients': jnp.zeros((layer.groups, d_out, d_out), dtype),
        }

    def application(
        self,
        layer: KFACLayer,
        inputs: SharedTensor,
        gradients: SharedTensor,
        gradients_dtype: Any,
    ) -> Accumulators:
        """Returns what one application of the layer adds to the accumulators.

        Args:
          layer: The layer.
          inputs: Its inputs.
          gradients: Gradients of its output.
          gradients_dtype: The precision that these were computed in.
        """
        del gradients_dtype
        rows, count = inputs.rows(), inputs.row_count()
        gram = _gram(rows)
        if layer.has_bias:
            gram = _append_bias(gram, rows.sum(0), count)
        gradient_gram = _gram(gradients.rows())
        if gradients.row_weight is not None:
            gradient_gram = gradient_gram * jnp.asarray(
                gradients.row_weight, gradient_gram.dtype
            )
        return {'inputs': gram, 'input_count': count, 'gradients': gradient_gram}

    def factor_sums(self, layer: KFACLayer, accumulated: Accumulators) -> FactorSums:
        """Returns the sums that the Kronecker factors follow from."""
        del layer
        return FactorSums(**accumulated)


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

    def __init__(self, normalisation: str) -> None:
        self._mean_inputs = normalisation == 'mean_inputs'

    def accumulators(
        self, layer: KFACLayer, n_examples: int, dtype: jnp.dtype
    ) -> Accumulators:
        """Returns sums that nothing has been added to yet."""
        d_in = layer.input_dim - layer.has_bias
        return {
            'inputs': jnp.zeros((n_examples, layer.groups, d_in), dtype),
            'positions': jnp.zeros(n_examples, dtype),
            'gradients': jnp.zeros((n_examples, layer.groups, layer.output_dim), dtype),
            'gradient_rounding': jnp.zeros((), dtype),
        }

    def application(
        self,
        layer: KFACLayer,
        inputs: SharedTensor,
        gradients: SharedTensor,
        gradients_dtype: Any,
    ) -> Accumulators:
        """Returns what one application of the layer adds to the accumulators.

        Args:
          layer: The layer.
          inputs: Its inputs.
          gradients: Gradients of its output.
          gradients_dtype: The precision that these were computed in.
        """
        del layer
        eps = float(jnp.finfo(gradients_dtype).eps)
        rounding = rounding_share(eps, gradients.rows_per_example)
        return {
            'inputs': inputs.sum_over_positions(),
            'positions': inputs.positions(),
            'gradients': gradients.sum_over_positions(),
            # The square of what is rounding error.
            'gradient_rounding': rounding**2 * (gradients.rows() ** 2).sum(),
        }

    def factor_sums(self, layer: KFACLayer, accumulated: Accumulators) -> FactorSums:
        """Returns the sums that the Kronecker factors follow from."""
        inputs, gradients = accumulated['inputs'], accumulated['gradients']
        cancelled = (gradients**2).sum() < accumulated['gradient_rounding']
        gradients = jnp.where(cancelled, 0, gradients)
        positions = accumulated['positions'][:, None, None]
        if layer.has_bias:
            # The bias's input is 1 at every position, so its sum is R_n.
            ones = jnp.broadcast_to(positions, (*inputs.shape[:2], 1))
            inputs = jnp.concatenate([inputs, ones], -1)
        # An example may have no position at all (a graph without edges).
        at_least_one = jnp.maximum(positions, 1)
        if self._mean_inputs:
            inputs = inputs / at_least_one
        else:
            gradients = gradients / at_least_one
        # Only examples with a position have an input to average over.
        count = (positions > 0).sum().astype(inputs.dtype)
        return FactorSums(_gram(inputs), count, _gram(gradients))


Sums = ExpandSums | ReduceSums


def _gram(rows: jax.Array) -> jax.Array:
    """Sums the outer products of rows, `[rows, G, d]` to `[G, d, d]`."""
    # Whole: by half, as in PyTorch, XLA takes as long on a CPU below d = 1000 or so.
    if rows.shape[1] == 1:
        matrix = rows[:, 0]
        return (matrix.T @ matrix)[None]
    return jnp.einsum('ngi,ngj->gij', rows, rows)


def _append_bias(gram: jax.Array, row_sum: jax.Array, count: jax.Array) -> jax.Array:
    """Extends the Gram matrix of rows to that of rows with a 1 appended.

    Args:
      gram: `[groups, d, d]`.
      row_sum: Sum of the rows, `[groups, d]`.
      count: Number of the rows.
    """
    corner = jnp.broadcast_to(count, (gram.shape[0], 1, 1))
    column = row_sum[:, :, None]
    return jnp.concatenate(
        [
            jnp.concatenate([gram, column], 2),
            jnp.concatenate([column.swapaxes(1, 2), corner], 2),
        ],
        1,
    )
