"""The layers that K-FAC handles, and the table of who trains which parameter.

To support another kind of layer, add a class and name it in `_layer_class`.
"""

import collections
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from ..assignments import Assignment
from .convolutions import ConvLayer, ConvTransposeLayer
from .kfac_layer import KFACLayer


class LinearLayer(KFACLayer):
    """`nn.Linear` on inputs `[*leading, d_in]`, any number of leading axes."""

    def input_rows(
        self, inputs: Tensor, sum_positions: bool, output_shape: Sequence[int]
    ) -> tuple[Tensor, int]:
        """See base class."""
        del sum_positions, output_shape
        return inputs.unsqueeze(-2), 1

    def gradient_rows(self, gradients: Tensor) -> Tensor:
        """See base class."""
        return gradients.unsqueeze(-2)


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
        # It names the strides and all else that makes rows of a convolution's input.
        if other.extra_repr() != module.extra_repr():
            return None, f'shared with {other_name} ({kind} of another geometry)'
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
    if forward in (nn.ConvTranspose1d.forward, nn.ConvTranspose2d.forward):
        return ConvTransposeLayer
    return None
