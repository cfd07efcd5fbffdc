"""The layers that K-FAC handles, and the table of who trains which parameter.

To support another kind of layer, add a class and name it in `layer_class`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..assignments import Assignment
from .convolutions import ConvLayer, ConvTransposeLayer
from .kfac_layer import KFACLayer, UnsupportedLayerError, ordered_back

UNDER_VMAP = 'runs under a vmap that hides the batch'


class _Axes(NamedTuple):
    """Orders of axes in which positions come first, then groups, then features."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    n_leading: int


class LinearLayer(KFACLayer):
    """`nn.Dense`, `nn.DenseGeneral` and `nn.Einsum`: one product with a kernel.

    All three are an einsum of input and kernel. The axes of the kernel are groups
    (in the input, the kernel and the output), features of the input (in the input
    and the kernel) and features of the output; all other axes are positions.
    """

    def __init__(
        self, name: str, module: nn.Module, kernel_shape: tuple[int, ...]
    ) -> None:
        super().__init__(name, module, kernel_shape)
        self._module = module
        # One leading axis stands for any number of them.
        inputs, kernel, outputs = self._labels(self._least_ndim())
        sizes = dict(zip(kernel, kernel_shape, strict=True))
        self._groups = [x for x in kernel if x in inputs and x in outputs]
        self._input_features = [x for x in kernel if x in inputs and x not in outputs]
        self._output_features = [x for x in kernel if x in outputs and x not in inputs]
        lost = [x for x in inputs if x not in kernel and x not in outputs]
        lost += [x for x in kernel if x not in inputs and x not in outputs]
        if lost:
            raise UnsupportedLayerError('its einsum sums over an axis of one operand')
        self.groups = math.prod(sizes[x] for x in self._groups)
        self.output_dim = math.prod(sizes[x] for x in self._output_features)
        features = math.prod(sizes[x] for x in self._input_features)
        self.input_dim = features + self.has_bias
        order = (*self._groups, *self._output_features, *self._input_features)
        self._kernel_order = tuple(kernel.index(x) for x in order)
        # The bias has the kernel's axes that the output has, in the output's order.
        bias = [x for x in outputs if x in kernel]
        self._bias_shape = tuple(sizes[x] for x in bias)
        self._bias_order = tuple(
            bias.index(x) for x in (*self._groups, *self._output_features)
        )

    def _least_ndim(self) -> int:
        module = self._module
        if isinstance(module, nn.DenseGeneral):
            axes = (*_as_tuple(module.batch_dims), *_as_tuple(module.axis))
            ndim = max(axis + 1 if axis >= 0 else -axis for axis in axes)
            # Axes counted from the front must not meet those counted from the back.
            while len({axis % ndim for axis in axes}) < len(axes):
                ndim += 1
            return ndim
        if isinstance(module, nn.Einsum):
            return len(_einsum_parts(module)[0].replace('...', ''))
        return 1

    def _labels(self, ndim: int) -> tuple[list[str], list[str], list[str]]:
        """Returns a label for each axis of an input `[ndim]`, kernel and output."""
        module = self._module
        if isinstance(module, nn.Einsum):
            inputs, weights, outputs = _einsum_parts(module)
            n_leading = ndim - len(inputs.replace('...', ''))
            leading = [f'leading {i}' for i in range(n_leading)]
            return (
                _expand_ellipsis(inputs, leading),
                list(weights),
                _expand_ellipsis(outputs, leading),
            )
        contracted, groups, n_features = [ndim - 1], [], 1
        if isinstance(module, nn.DenseGeneral):
            # The kernel has them in the order of the input, however they are given.
            contracted = sorted(axis % ndim for axis in _as_tuple(module.axis))
            groups = sorted(axis % ndim for axis in _as_tuple(module.batch_dims))
            n_features = len(_as_tuple(module.features))
        labels = [f'leading {axis}' for axis in range(ndim)]
        for i, axis in enumerate(contracted):
            labels[axis] = f'input {i}'
        for i, axis in enumerate(groups):
            labels[axis] = f'group {i}'
        features = [f'output {i}' for i in range(n_features)]
        kernel = [labels[axis] for axis in (*groups, *contracted)] + features
        positions = [label for label in labels if label.startswith('leading')]
        # The order of `lax.dot_general`.
        return labels, kernel, [labels[axis] for axis in groups] + positions + features

    def _axes(self, ndim: int) -> _Axes:
        inputs, _, outputs = self._labels(ndim)
        from_kernel = (*self._groups, *self._input_features)
        leading = [x for x in inputs if x not in from_kernel]
        to_output = (*leading, *self._groups, *self._output_features)
        return _Axes(
            tuple(inputs.index(x) for x in (*leading, *from_kernel)),
            tuple(outputs.index(x) for x in to_output),
            len(leading),
        )

    def input_rows(
        self, inputs: jax.Array, sum_positions: bool
    ) -> tuple[jax.Array, int]:
        """See base class."""
        del sum_positions
        axes = self._axes(inputs.ndim)
        ordered = inputs.transpose(axes.inputs)
        leading = ordered.shape[: axes.n_leading]
        return ordered.reshape(*leading, self.groups, -1), 1

    def gradient_rows(self, gradients: jax.Array) -> jax.Array:
        """See base class."""
        # An output has the leading axes and groups of its input.
        n_leading = gradients.ndim - len(self._groups) - len(self._output_features)
        ndim = n_leading + len(self._groups) + len(self._input_features)
        axes = self._axes(ndim)
        ordered = gradients.transpose(axes.outputs)
        return ordered.reshape(*ordered.shape[:n_leading], self.groups, self.output_dim)

    def to_matrix(self, gradients: Sequence[jax.Array]) -> jax.Array:
        """See base class."""
        kernel = gradients[0].transpose(self._kernel_order)
        matrix = kernel.reshape(self.groups, self.output_dim, -1)
        if not self.has_bias:
            return matrix
        bias = gradients[1].transpose(self._bias_order)
        bias = bias.reshape(self.groups, self.output_dim, 1)
        return jnp.concatenate([matrix, bias], -1)

    def from_matrix(self, matrix: jax.Array) -> list[jax.Array]:
        """See base class."""
        weight = matrix[..., :-1] if self.has_bias else matrix
        parts = [ordered_back(weight, self.kernel_shape, self._kernel_order)]
        if self.has_bias:
            bias = matrix[..., -1]
            parts.append(ordered_back(bias, self._bias_shape, self._bias_order))
        return parts


def _as_tuple(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


def _einsum_parts(module: nn.Einsum) -> tuple[str, str, str]:
    """Returns input, kernel and output of the module's own einsum."""
    if module.einsum_str is None:
        raise UnsupportedLayerError('its einsum is given by the caller')
    operands, outputs = module.einsum_str.replace(' ', '').split('->')
    inputs, kernel = operands.split(',')
    if '...' in kernel:
        raise UnsupportedLayerError('the kernel in its einsum has an ellipsis')
    return inputs, kernel, outputs


def _expand_ellipsis(subscripts: str, leading: Sequence[str]) -> list[str]:
    before, ellipsis, after = subscripts.partition('...')
    return [*before, *(leading if ellipsis else ()), *after]


@dataclasses.dataclass(frozen=True)
class Application:
    """A module as it was met first in a forward pass that K-FAC watched.

    Attributes:
      kind: The module's class.
      module: The module, bound to no variables; None if it has no kernel.
      kernel_shape: Shape of its parameter `kernel`; None if it has none.
      is_mapped: Whether a `vmap` around it hides the batch.
      kernel_normaliser: Class of the module that calls it with another kernel than
        its parameter; None if there is none.
      seen_only_as_written: Whether its calls are seen only where compiled parts of
        the model run as they were written: JAX takes what it has traced for another
        module of the same kind, as with one class of `nn.jit` used several times.
    """

    kind: type[nn.Module]
    module: nn.Module | None
    kernel_shape: tuple[int, ...] | None
    is_mapped: bool
    kernel_normaliser: str | None = None
    seen_only_as_written: bool = False


def assign_parameters(
    parameter_shapes: Mapping[str, tuple[int, ...]],
    applications: Mapping[str, Application],
    max_factor_dimension: int,
) -> tuple[list[KFACLayer], list[Assignment]]:
    """Finds the layers that K-FAC can handle, and says so for each parameter.

    Args:
      parameter_shapes: Parameter name to shape.
      applications: Path of a module to how it was met in a forward pass.
      max_factor_dimension: Layers with a larger Kronecker factor fall back.

    Returns:
      The layers, and one assignment for each parameter in the model's order.
    """
    layers: dict[str, KFACLayer] = {}
    assignments = []
    for name, shape in parameter_shapes.items():
        module_name = name.rpartition('/')[0]
        try:
            if module_name not in layers:
                layers[module_name] = _layer_of(
                    module_name,
                    applications,
                    parameter_shapes,
                    max_factor_dimension,
                )
            layer = f'{applications[module_name].kind.__name__} {module_name}'
            if name in layers[module_name].parameter_names:
                assignment = Assignment(name, shape, True, layer)
            else:
                reason = f'it is not a parameter of {layer}, which shares its scope'
                assignment = Assignment(name, shape, False, reason)
        except UnsupportedLayerError as error:
            assignment = Assignment(name, shape, False, str(error))
        assignments.append(assignment)
    return list(layers.values()), assignments


def _layer_of(
    name: str,
    applications: Mapping[str, Application],
    parameter_shapes: Mapping[str, tuple[int, ...]],
    max_factor_dimension: int,
) -> KFACLayer:
    """Returns the layer of a module.

    Raises:
      UnsupportedLayerError: If K-FAC leaves the module to the first-order rule.
    """
    application = applications.get(name)
    if application is None:
        raise UnsupportedLayerError(
            "no module of this path in variables['params'] is called by the model"
        )
    kind, module = application.kind, application.module
    kind_of_layer, kernel_shape = layer_class(kind), application.kernel_shape
    if kind_of_layer is None or module is None or kernel_shape is None:
        raise UnsupportedLayerError(f'{kind.__name__} has no Kronecker factors')
    prefix = f'{name}/' if name else ''
    _check_given(f'{prefix}kernel', parameter_shapes)
    if parameter_shapes[f'{prefix}kernel'] != kernel_shape:
        raise UnsupportedLayerError(
            f'the parameters of {name} are stacked (nn.scan or nn.vmap) or computed '
            f'from others: its kernel is {parameter_shapes[f"{prefix}kernel"]} there '
            f'and {kernel_shape} where it is called'
        )
    if application.kernel_normaliser is not None:
        # Its factors are those of the kernel that it is called with.
        raise UnsupportedLayerError(
            f'{application.kernel_normaliser} computes the kernel of {name} from its '
            'parameter'
        )
    # Within a scan or `nn.remat` inside the vmap, a layer does not look mapped; the
    # modules around it do.
    parts = name.split('/')
    enclosing = ['/'.join(parts[:depth]) for depth in range(len(parts) + 1)]
    if any(applications[p].is_mapped for p in enclosing if p in applications):
        raise UnsupportedLayerError(f'{name} {UNDER_VMAP}')
    layer = kind_of_layer(name, module, kernel_shape)
    layer.seen_only_as_written = application.seen_only_as_written
    for parameter_name in layer.parameter_names:
        _check_given(parameter_name, parameter_shapes)
    largest = max(layer.input_dim, layer.output_dim)
    if largest > max_factor_dimension:
        raise UnsupportedLayerError(
            f'a Kronecker factor of dimension {largest} exceeds max_factor_dimension '
            f'{max_factor_dimension}'
        )
    return layer


def _check_given(name: str, parameter_shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Makes sure that a parameter of a layer is one of those that are trained."""
    if name not in parameter_shapes:
        raise UnsupportedLayerError(
            f'{name}, of the same layer, is not among the parameters'
        )


def layer_class(kind: type[nn.Module]) -> type[KFACLayer] | None:
    """Returns the class for a kind of module, unless its forward pass is its own."""
    call = kind.__call__
    if call in (nn.Dense.__call__, nn.DenseGeneral.__call__, nn.Einsum.__call__):
        return LinearLayer
    if call is nn.Conv.__call__ and issubclass(kind, nn.Conv):
        return ConvLayer
    if call is nn.ConvTranspose.__call__:
        return ConvTransposeLayer
    return None
