"""The base class of all layers that K-FAC handles.

A layer class says how the inputs, output gradients and parameter gradients of its
kind become rows and matrices; all else is the same for every kind.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax


class UnsupportedLayerError(ValueError):
    """Says why K-FAC leaves a module to the first-order rule."""


class KFACLayer:
    """A linear weight-sharing layer: a kernel, perhaps a bias, and its module.

    Attributes:
      name: Path of the module in the model, parts joined by '/'.
      kernel_shape: Shape of the kernel.
      has_bias: Whether there is a bias.
      parameter_names: Names of kernel and bias in the model.
      groups: Number of independent blocks of the layer's weight.
      input_dim: Columns of a block's weight matrix, the bias counted.
      output_dim: Rows of a block's weight matrix.
      seen_only_as_written: Whether its calls are seen only where compiled parts of
        the model run as they were written.
    """

    groups: int
    input_dim: int
    output_dim: int
    seen_only_as_written = False

    def __init__(
        self, name: str, module: nn.Module, kernel_shape: tuple[int, ...]
    ) -> None:
        self.name = name
        self.kernel_shape = kernel_shape
        self.has_bias = bool(module.use_bias)
        names = ['kernel', 'bias'] if self.has_bias else ['kernel']
        self.parameter_names = [f'{name}/{n}' if name else n for n in names]

    @property
    def fan_in(self) -> int:
        """Number of inputs of each output, the bias not counted."""
        return self.input_dim - self.has_bias

    def input_rows(
        self, inputs: jax.Array, sum_positions: bool
    ) -> tuple[jax.Array, int]:
        """Returns the rows that the weight matrix is multiplied with.

        Args:
          inputs: The module's input.
          sum_positions: Whether the caller will sum over positions anyway, which
            some layers can do at less cost.

        Returns:
          Rows of shape `[*leading, groups, d]` without the bias's 1, and how many
          positions each of them is the sum of.
        """
        raise NotImplementedError

    def gradient_rows(self, gradients: jax.Array) -> jax.Array:
        """Returns output gradients as rows of shape `[*leading, groups, d_out]`."""
        raise NotImplementedError

    def to_matrix(self, gradients: Sequence[jax.Array]) -> jax.Array:
        """Joins the gradients of kernel and bias, `[groups, d_out, d_in]`."""
        raise NotImplementedError

    def from_matrix(self, matrix: jax.Array) -> list[jax.Array]:
        """Splits a matrix `[groups, d_out, d_in]` into kernel and bias."""
        raise NotImplementedError


def ordered_back(
    values: jax.Array, shape: tuple[int, ...], order: tuple[int, ...]
) -> jax.Array:
    """Undoes a transposition of an array of `shape` by `order` and a reshape."""
    transposed = values.reshape([shape[axis] for axis in order])
    return transposed.transpose([order.index(axis) for axis in range(len(order))])
