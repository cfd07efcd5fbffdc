"""Convolutions and transposed convolutions: linear layers on patches."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from .kfac_layer import KFACLayer, UnsupportedLayerError, ordered_back


class _Convolution(KFACLayer):
    """What all convolutions share; the positions are the output pixels."""

    def __init__(
        self, name: str, module: nn.Module, kernel_shape: tuple[int, ...]
    ) -> None:
        super().__init__(name, module, kernel_shape)
        assert isinstance(module, nn.Conv | nn.ConvTranspose)
        self._kernel = kernel_shape[:-2]
        n_axes = len(self._kernel)
        if n_axes > 2:
            raise UnsupportedLayerError(f'it convolves over {n_axes} axes')
        if module.mask is not None:
            raise UnsupportedLayerError('its kernel is masked')
        self._stride = _per_axis(module.strides, n_axes)
        self._dilation = _per_axis(module.kernel_dilation, n_axes)
        # Number of pixels that the kernel spans.
        self._spans = [
            (k - 1) * d + 1 for k, d in zip(self._kernel, self._dilation, strict=True)
        ]
        self._padding = module.padding
        # The kernel is `[*kernel, C_in, C_out]`.
        self._kernel_order = (n_axes + 1, n_axes, *range(n_axes))

    def _batched(self, inputs: jax.Array) -> jax.Array:
        """Gives inputs one batch axis, `[batch, *pixels, C]`."""
        return inputs.reshape(-1, *inputs.shape[-len(self._kernel) - 1 :])

    def _rows(self, elements: Sequence[jax.Array]) -> jax.Array:
        """Joins what each kernel element meets, `[batch, positions, C]`, to rows."""
        # Channels before kernel elements, since the first of them make the groups.
        patches = jnp.stack(elements, -1)
        return patches.reshape(*patches.shape[:2], self.groups, -1)

    def gradient_rows(self, gradients: jax.Array) -> jax.Array:
        """See base class."""
        n_axes = len(self._kernel)
        positions = math.prod(gradients.shape[-n_axes - 1 : -1])
        return gradients.reshape(-1, positions, self.groups, self.output_dim)

    def to_matrix(self, gradients: Sequence[jax.Array]) -> jax.Array:
        """See base class."""
        kernel = gradients[0].transpose(self._kernel_order)
        matrix = kernel.reshape(self.groups, self.output_dim, -1)
        if not self.has_bias:
            return matrix
        bias = gradients[1].reshape(self.groups, self.output_dim, 1)
        return jnp.concatenate([matrix, bias], -1)

    def from_matrix(self, matrix: jax.Array) -> list[jax.Array]:
        """See base class."""
        weight = matrix[..., :-1] if self.has_bias else matrix
        parts = [ordered_back(weight, self.kernel_shape, self._kernel_order)]
        if self.has_bias:
            parts.append(matrix[..., -1].reshape(-1))
        return parts


class ConvLayer(_Convolution):
    """`nn.Conv` in one and two dimensions.

    A row is the patch of the (padded) input under the kernel at one output pixel.
    """

    def __init__(
        self, name: str, module: nn.Module, kernel_shape: tuple[int, ...]
    ) -> None:
        super().__init__(name, module, kernel_shape)
        assert isinstance(module, nn.Conv)
        if any(d != 1 for d in _per_axis(module.input_dilation, len(self._kernel))):
            raise UnsupportedLayerError('it dilates its input')
        self.groups = module.feature_group_count
        self.output_dim = kernel_shape[-1] // self.groups
        self.input_dim = math.prod(kernel_shape[:-1]) + self.has_bias

    def _padded(self, inputs: jax.Array) -> jax.Array:
        """Pads an input and gives it one batch axis, `[batch, *pixels, C]`."""
        images, spans, mode = self._batched(inputs), self._spans, 'constant'
        if not isinstance(self._padding, str):
            pads = _per_side(self._padding, len(spans))
        elif self._padding in ('CIRCULAR', 'REFLECT'):
            mode = {'CIRCULAR': 'wrap', 'REFLECT': 'reflect'}[self._padding]
            pads = [((span - 1) // 2, span // 2) for span in spans]
        elif self._padding == 'CAUSAL':
            pads = [(spans[0] - 1, 0)]
        else:
            pixels = images.shape[1:-1]
            pads = lax.padtype_to_pads(pixels, spans, self._stride, self._padding)
        return jnp.pad(images, [(0, 0), *pads, (0, 0)], mode=mode)

    def _windows(self, padded: jax.Array) -> list[jax.Array]:
        """Returns what each kernel element meets, `[batch, *output pixels, C]`."""
        starts = []
        for axis, kernel in enumerate(self._kernel):
            stride, dilation = self._stride[axis], self._dilation[axis]
            n_out = (padded.shape[1 + axis] - dilation * (kernel - 1) - 1) // stride + 1
            span = stride * (n_out - 1) + 1
            starts.append(
                [
                    slice(k * dilation, k * dilation + span, stride)
                    for k in range(kernel)
                ]
            )
        return [padded[:, *slices] for slices in itertools.product(*starts)]

    def input_rows(
        self, inputs: jax.Array, sum_positions: bool
    ) -> tuple[jax.Array, int]:
        """See base class.

        To sum patches takes one window sum for each kernel element, and no patch has
        to be formed (Dangel, arXiv 2307.02275).
        """
        windows = self._windows(self._padded(inputs))
        if not sum_positions:
            return self._rows([_flat_pixels(window) for window in windows]), 1
        n_positions = math.prod(windows[0].shape[1:-1])
        return self._rows([_summed_pixels(window) for window in windows]), n_positions


@dataclasses.dataclass(frozen=True)
class _Meetings:
    """Where the elements of one kernel axis meet input pixels.

    Attributes:
      n_in: Number of input pixels.
      n_out: Number of output pixels.
      stride: See below.
      offsets: For each element; input pixel i meets it at output pixel
        `stride * i + offset`, if there is one.
      wraps: Whether output pixels are counted modulo their number.
    """

    n_in: int
    n_out: int
    stride: int
    offsets: Sequence[int]
    wraps: bool = False

    def inputs(self) -> list[slice]:
        """Returns the input pixels that each element meets."""
        if self.wraps:
            return [slice(None)] * len(self.offsets)
        slices = []
        for offset in self.offsets:
            # The first and the last input pixel of which there is that output pixel.
            first = max(-(offset // self.stride), 0)
            last = min((self.n_out - 1 - offset) // self.stride, self.n_in - 1)
            slices.append(slice(first, max(last + 1, first)))
        return slices

    def spread(self, values: jax.Array, axis: int) -> list[jax.Array]:
        """Returns what each element meets at each output pixel.

        Args:
          values: Has `n_in` pixels along the axis.
          axis: The axis.

        Returns:
          For each element the values with `n_out` pixels along the axis, zero where
          it meets nothing.
        """
        if self.wraps:
            spread = _padded_axis(values, axis, 0, self.stride - 1, self.stride)
            return [jnp.roll(spread, offset, axis) for offset in self.offsets]
        surplus = self.n_out - self.stride * (self.n_in - 1) - 1
        return [
            _padded_axis(values, axis, offset, surplus - offset, self.stride)
            for offset in self.offsets
        ]


class ConvTransposeLayer(_Convolution):
    """`nn.ConvTranspose` in one and two dimensions.

    A row is the patch under the kernel, at one output pixel, of the input with
    `strides - 1` zeros between its pixels and padding around them. With
    `transpose_kernel` it is the patch under the flipped kernel; the elements of a row
    are in the order of the parameter all the same.
    """

    def __init__(
        self, name: str, module: nn.Module, kernel_shape: tuple[int, ...]
    ) -> None:
        super().__init__(name, module, kernel_shape)
        assert isinstance(module, nn.ConvTranspose)
        known = ('SAME', 'VALID', 'CIRCULAR')
        if isinstance(self._padding, str) and self._padding not in known:
            raise UnsupportedLayerError(f'its padding is {self._padding}')
        self._flips_kernel = module.transpose_kernel
        if self._flips_kernel:
            # The kernel is `[*kernel, C_out, C_in]`.
            outputs, inputs, *pixels = self._kernel_order
            self._kernel_order = (inputs, outputs, *pixels)
        self.groups = 1
        self.output_dim = kernel_shape[self._kernel_order[0]]
        self.input_dim = math.prod(kernel_shape) // self.output_dim + self.has_bias

    def _padding_of_axis(self, axis: int) -> tuple[int, int]:
        """Returns what is added before and after the input with its zeros.

        The names of paddings mean what they do in `lax.conv_transpose`.
        """
        if not isinstance(self._padding, str):
            return _per_side(self._padding, len(self._kernel))[axis]
        span, stride = self._spans[axis], self._stride[axis]
        if self._padding == 'SAME':
            total = span + stride - 2
            before = span - 1 if stride > span - 1 else math.ceil(total / 2)
        else:
            total = span + stride - 2 + max(span - stride, 0)
            before = span - 1
        return before, total - before

    def _meetings(self, axis: int, n_in: int) -> _Meetings:
        """Returns where the elements of one kernel axis meet the input's pixels."""
        kernel, dilation = self._kernel[axis], self._dilation[axis]
        span, stride = self._spans[axis], self._stride[axis]
        before, after = self._padding_of_axis(axis)
        elements = reversed(range(kernel)) if self._flips_kernel else range(kernel)
        offsets = [before - k * dilation for k in elements]
        n_out = stride * (n_in - 1) + 1 + before + after - (span - 1)
        if self._padding != 'CIRCULAR':
            return _Meetings(n_in, n_out, stride, offsets)
        # What goes beyond one period comes in again from the other side; in between
        # the whole is shifted to the middle of a number of periods.
        period = stride * n_in
        shift = -(n_out - period) % (2 * period)
        shift = shift // 2 if self._flips_kernel else (shift + 1) // 2
        offsets = [(offset + shift) % period for offset in offsets]
        return _Meetings(n_in, period, stride, offsets, wraps=True)

    def input_rows(
        self, inputs: jax.Array, sum_positions: bool
    ) -> tuple[jax.Array, int]:
        """See base class.

        To sum the patches takes one window sum of the input for each kernel element.
        """
        images = self._batched(inputs)
        axes = [self._meetings(i, n_in) for i, n_in in enumerate(images.shape[1:-1])]
        if sum_positions:
            met = itertools.product(*(axis.inputs() for axis in axes))
            sums = [_summed_pixels(images[:, *slices]) for slices in met]
            return self._rows(sums), math.prod(axis.n_out for axis in axes)
        spread = [images]
        for i, axis in enumerate(axes):
            spread = [part for values in spread for part in axis.spread(values, 1 + i)]
        return self._rows([_flat_pixels(values) for values in spread]), 1


def _padded_axis(
    values: jax.Array, axis: int, before: int, after: int, stride: int
) -> jax.Array:
    """Pads one axis, or crops it, after `stride - 1` zeros between its values."""
    pads: list[Any] = [(0, 0, 0)] * values.ndim
    pads[axis] = (before, after, stride - 1)
    return lax.pad(values, jnp.zeros((), values.dtype), pads)


def _flat_pixels(images: jax.Array) -> jax.Array:
    """Returns `[batch, *pixels, C]` as `[batch, positions, C]`."""
    return images.reshape(len(images), -1, images.shape[-1])


def _summed_pixels(images: jax.Array) -> jax.Array:
    """Sums `[batch, *pixels, C]` to `[batch, 1, C]`."""
    return images.sum(tuple(range(1, images.ndim - 1)))[:, None]


def _per_axis(value: int | Sequence[int] | None, n_axes: int) -> tuple[int, ...]:
    if value is None:
        return (1,) * n_axes
    return (value,) * n_axes if isinstance(value, int) else tuple(value)


def _per_side(
    padding: int | Sequence[int | tuple[int, int]], n_axes: int
) -> list[tuple[int, int]]:
    """Returns what a padding in numbers adds before and after each axis."""
    if isinstance(padding, int):
        return [(padding, padding)] * n_axes
    return [(p, p) if isinstance(p, int) else (p[0], p[1]) for p in padding]
