"""The base class of all layers that K-FAC handles.

A layer class says how the inputs, output gradients and parameter gradients of its
kind become rows and matrices; all else is the same for every kind.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class KFACLayer:
    """A linear weight-sharing layer: a weight, perhaps a bias, and their modules.

    Attributes:
      name: Name of the (first) module in the model.
      modules: The modules that apply these parameters; several if they share them.
      weight: The weight parameter.
      bias: The bias parameter; None if there is none or it is frozen.
      parameter_names: Names of weight and bias in the model.
      groups: Number of independent blocks of the layer's weight.
      input_dim: Columns of a block's weight matrix, the bias counted.
      output_dim: Rows of a block's weight matrix.
    """

    groups: int = 1

    def __init__(self, name: str, module: nn.Module) -> None:
        assert isinstance(module.weight, nn.Parameter)
        self.name = name
        self.modules: list[nn.Module] = [module]
        self.weight = module.weight
        self.bias: nn.Parameter | None = None
        if isinstance(module.bias, nn.Parameter) and module.bias.requires_grad:
            self.bias = module.bias
        names = ['weight'] if self.bias is None else ['weight', 'bias']
        self.parameter_names = [f'{name}.{n}' if name else n for n in names]
        self.output_dim = self.weight.shape[0] // self.groups
        self.input_dim = self.weight[0].numel() + (self.bias is not None)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Weight and bias, in the order of `parameter_names`."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    @property
    def fan_in(self) -> int:
        """Number of inputs of each output, the bias not counted."""
        return self.input_dim - (self.bias is not None)

    def input_rows(
        self, inputs: Tensor, sum_positions: bool, output_shape: Sequence[int]
    ) -> tuple[Tensor, int]:
        """Returns the rows that the weight matrix is multiplied with.

        Args:
          inputs: The module's input.
          sum_positions: Whether the caller will sum over positions anyway, which
            some layers can do at less cost.
          output_shape: Shape of the module's output, which does not always follow
            from that of its input (`output_size` of `nn.ConvTranspose2d`).

        Returns:
          Rows of shape `[*leading, groups, d]` without the bias's 1, and how many
          positions each of them is the sum of.
        """
        raise NotImplementedError

    def gradient_rows(self, gradients: Tensor) -> Tensor:
        """Returns output gradients as rows of shape `[*leading, groups, d_out]`."""
        raise NotImplementedError

    def to_matrix(self, gradients: Sequence[Tensor]) -> Tensor:
        """Joins the gradients of weight and bias, `[groups, d_out, d_in]`.

        Both, and the matrix, may have one more axis in front, for as many layers of
        the same shapes.
        """
        weight = gradients[0]
        leading = weight.shape[: weight.dim() - self.weight.dim()]
        matrix = weight.reshape(*leading, self.groups, self.output_dim, -1)
        if len(gradients) == 1:
            return matrix
        bias = gradients[1].reshape(*leading, self.groups, self.output_dim, 1)
        return torch.cat([matrix, bias], -1)

    def from_matrix(self, matrix: Tensor) -> list[Tensor]:
        """Splits a matrix `[groups, d_out, d_in]` into weight and bias.

        It may have one more axis in front, which both then have.
        """
        leading = matrix.shape[:-3]
        if self.bias is None:
            return [matrix.reshape(*leading, *self.weight.shape)]
        weight, bias = matrix[..., :-1], matrix[..., -1]
        return [
            weight.reshape(*leading, *self.weight.shape),
            bias.reshape(*leading, *self.bias.shape),
        ]
