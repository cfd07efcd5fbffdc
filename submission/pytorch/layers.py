"""The layers that K-FAC handles, and the table of who trains which parameter.

A layer class says how the inputs, output gradients and parameter gradients of its
kind become rows and matrices; all else is the same for every kind. To support
another kind of layer, add a class and name it in `_layer_class`.
"""

import collections
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from ..assignments import Assignment
from .weight_sharing import sums_dtype


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

    def input_rows(self, inputs: Tensor, sum_positions: bool) -> tuple[Tensor, int]:
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

    def gradient_rows(self, gradients: Tensor) -> Tensor:
        """Returns output gradients as rows of shape `[*leading, groups, d_out]`."""
        raise NotImplementedError

    def to_matrix(self, gradients: Sequence[Tensor]) -> Tensor:
        """Joins the gradients of weight and bias, `[groups, d_out, d_in]`."""
        matrix = gradients[0].reshape(self.groups, self.output_dim, -1)
        if len(gradients) == 1:
            return matrix
        bias = gradients[1].reshape(self.groups, self.output_dim, 1)
        return torch.cat([matrix, bias], -1)

    def from_matrix(self, matrix: Tensor) -> list[Tensor]:
        """Splits a matrix `[groups, d_out, d_in]` into weight and bias."""
        if self.bias is None:
            return [matrix.reshape(self.weight.shape)]
        weight, bias = matrix[..., :-1], matrix[..., -1]
        return [weight.reshape(self.weight.shape), bias.reshape(self.bias.shape)]


class LinearLayer(KFACLayer):
    """`nn.Linear` on inputs `[*leading, d_in]`, any number of leading axes."""

    def input_rows(self, inputs: Tensor, sum_positions: bool) -> tuple[Tensor, int]:
        """See base class."""
        del sum_positions
        return inputs.unsqueeze(-2), 1

    def gradient_rows(self, gradients: Tensor) -> Tensor:
        """See base class."""
        return gradients.unsqueeze(-2)


class ConvLayer(KFACLayer):
    """`nn.Conv1d` and `nn.Conv2d`; the positions are the output pixels.

    A row is the patch of the (padded) input under the kernel at one output pixel.
    Both kinds are handled as two-dimensional.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        assert isinstance(module, nn.Conv1d | nn.Conv2d)
        self.groups = module.groups
        super().__init__(name, module)
        self._is_1d = isinstance(module, nn.Conv1d)
        lift = (1,) if self._is_1d else ()
        self._kernel = lift + tuple(module.kernel_size)
        self._stride = lift + tuple(module.stride)
        self._dilation = lift + tuple(module.dilation)
        # Also right for padding='same', where the sides may differ.
        self._padding = list(module._reversed_padding_repeated_twice)
        self._padding_mode = module.padding_mode

    def _padded(self, inputs: Tensor) -> Tensor:
        spatial_axes = 1 if self._is_1d else 2
        if inputs.dim() == spatial_axes + 1:
            inputs = inputs.unsqueeze(0)
        if any(self._padding):
            mode = 'constant' if self._padding_mode == 'zeros' else self._padding_mode
            inputs = F.pad(inputs, self._padding, mode=mode)
        return inputs.unsqueeze(2) if self._is_1d else inputs

    def input_rows(self, inputs: Tensor, sum_positions: bool) -> tuple[Tensor, int]:
        """See base class."""
        padded = self._padded(inputs)
        if sum_positions:
            return self._summed_patches(padded)
        patches = F.unfold(
            padded, self._kernel, dilation=self._dilation, stride=self._stride
        )
        n, _, positions = patches.shape
        rows = patches.view(n, self.groups, -1, positions)
        return rows.permute(0, 3, 1, 2), 1

    def _summed_patches(self, padded: Tensor) -> tuple[Tensor, int]:
        """Sums the patches without unfolding (Dangel, arXiv 2307.02275).

        One kernel element meets a strided window of the input, so the sum of all
        patches takes one window sum for each kernel element.
        """
        n_positions = 1
        starts: list[list[slice]] = []
        for axis in range(2):
            size, kernel = padded.shape[2 + axis], self._kernel[axis]
            stride, dilation = self._stride[axis], self._dilation[axis]
            n_out = (size - dilation * (kernel - 1) - 1) // stride + 1
            n_positions *= n_out
            span = stride * (n_out - 1) + 1
            starts.append(
                [
                    slice(k * dilation, k * dilation + span, stride)
                    for k in range(kernel)
                ]
            )
        dtype = sums_dtype(padded.dtype)
        sums = [
            padded[:, :, rows, columns].sum((2, 3), dtype=dtype)
            for rows in starts[0]
            for columns in starts[1]
        ]
        patches = torch.stack(sums, -1)
        return patches.reshape(len(padded), 1, self.groups, -1), n_positions

    def gradient_rows(self, gradients: Tensor) -> Tensor:
        """See base class."""
        spatial_axes = 1 if self._is_1d else 2
        if gradients.dim() == spatial_axes + 1:
            gradients = gradients.unsqueeze(0)
        n = gradients.shape[0]
        return gradients.reshape(n, self.groups, self.output_dim, -1).permute(
            0, 3, 1, 2
        )


def assign_parameters(
    model: nn.Module, max_factor_dimension: int
) -> tuple[list[KFACLayer], list[Assignment]]:
    """Finds the layers that K-FAC can handle, and says so for each parameter.

    Args:
      model: The model, not wrapped.
      max_factor_dimension: Layers with a larger Kronecker factor fall back.

    Returns:
      The layers, and one assignment for each parameter in the model's order.
    """
    owners: dict[nn.Parameter, list[tuple[str, nn.Module]]] = collections.defaultdict(
        list
    )
    for module_name, module in model.named_modules(remove_duplicate=True):
        for parameter in module.parameters(recurse=False):
            owners[parameter].append((module_name, module))
    layers: dict[nn.Parameter, KFACLayer] = {}
    assignments = []
    for name, parameter in model.named_parameters():
        layer, reason = _layer_of(
            parameter, owners[parameter], owners, layers, max_factor_dimension
        )
        if layer is not None:
            layers.setdefault(layer.weight, layer)
        assignments.append(
            Assignment(name, tuple(parameter.shape), layer is not None, reason)
        )
    return list(layers.values()), assignments


def _layer_of(
    parameter: nn.Parameter,
    modules: Sequence[tuple[str, nn.Module]],
    owners: dict[nn.Parameter, list[tuple[str, nn.Module]]],
    layers: dict[nn.Parameter, KFACLayer],
    max_factor_dimension: int,
) -> tuple[KFACLayer | None, str]:
    """Returns the layer of a parameter, or None, and the reason for either."""
    if not parameter.requires_grad:
        return None, 'frozen'
    name, module = modules[0]
    kind = type(module).__name__
    layer_class = _layer_class(module)
    if layer_class is None:
        return None, f'{kind} has no Kronecker factors'
    weight, bias = module.weight, module.bias
    if not isinstance(weight, nn.Parameter) or not weight.requires_grad:
        return None, f'the weight of {name} is frozen or computed from others'
    if bias is not None and not isinstance(bias, nn.Parameter):
        return None, f'the bias of {name} is computed from other parameters'
    # `nn.Parameter`s compare by identity here, as dictionary keys do.
    for other_name, other in owners[weight] + ([] if bias is None else owners[bias]):
        if (
            type(other) is not type(module)
            or other.weight is not weight
            or other.bias is not bias
        ):
            return None, f'shared with {other_name} ({type(other).__name__})'
    if weight in layers:
        return layers[weight], f'{kind} {name}'
    layer = layer_class(name, module)
    layer.modules = [shared for _, shared in owners[weight]]
    largest = max(layer.input_dim, layer.output_dim)
    if largest > max_factor_dimension:
        return None, (
            f'a Kronecker factor of dimension {largest} exceeds max_factor_dimension '
            f'{max_factor_dimension}'
        )
    return layer, f'{kind} {name}'


def _layer_class(module: nn.Module) -> type[KFACLayer] | None:
    """Returns the class for a module, unless its forward pass is its own."""
    if isinstance(module, NonDynamicallyQuantizableLinear):
        # The output projection of `nn.MultiheadAttention`, which is never called.
        return None
    forward = type(module).forward
    if forward is nn.Linear.forward:
        return LinearLayer
    if forward is nn.Conv1d.forward or forward is nn.Conv2d.forward:
        return ConvLayer
    return None
