"""Convolutions."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from .kfac_layer import KFACLayer, UnsupportedLayerError, ordered_back


class ConvLayer(KFACLayer):
    """`nn.Conv` in one and two dimensions; the positions are the output pixels.

    A row is the patch of the (padded) input under the kernel at one output pixel.
    """

    def __init__(
        self, name: str, module: nn.Module, kernel_shape: tuple[int, ...]
    ) -> None:
        super().__init__(name, module, kernel_shape)
        assert isinstance(module, nn.Conv)
        self._kernel = kernel_shape[:-2]
        n_axes = len(self._kernel)
        if n_axes > 2:
            raise UnsupportedLayerError(f'it convolves over {n_axes} axes')
        if module.mask is not None:
            raise UnsupportedLayerError('its kernel is masked')
        if any(d != 1 for d in _per_axis(module.input_dilation, n_axes)):
            raise UnsupportedLayerError('it dilates its input')
        self._stride = _per_axis(module.strides, n_axes)
        self._dilation = _per_axis(module.kernel_dilation, n_axes)
        self._padding = module.padding
        self.groups = module.feature_group_count
        self.output_dim = kernel_shape[-1] // self.groups
        self.input_dim = math.prod(kernel_shape[:-1]) + self.has_bias

    def _padded(self, inputs: jax.Array) -> jax.Array:
        """Pads an input and gives it one batch axis, `[batch, *spatial, C]`."""
        n_axes = len(self._kernel)
        inputs = inputs.reshape(-1, *inputs.shape[-n_axes - 1 :])
        spans = [
            (k - 1) * d + 1 for k, d in zip(self._kernel, self._dilation, strict=True)
        ]
        mode = 'constant'
        if isinstance(self._padding, str):
            if self._padding in ('CIRCULAR', 'REFLECT'):
                mode = {'CIRCULAR': 'wrap', 'REFLECT': 'reflect'}[self._padding]
                pads = [((span - 1) // 2, span // 2) for span in spans]
            elif self._padding == 'CAUSAL':
                pads = [(spans[0] - 1, 0)]
            else:
                spatial = inputs.shape[1:-1]
                pads = lax.padtype_to_pads(spatial, spans, self._stride, self._padding)
        elif isinstance(self._padding, int):
            pads = [(self._padding, self._padding)] * n_axes
        else:
            pads = [
                (p, p) if isinstance(p, int) else (p[0], p[1]) for p in self._padding
            ]
        return jnp.pad(inputs, [(0, 0), *pads, (0, 0)], mode=mode)

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
        if len(starts) == 1:
            return [padded[:, columns] for columns in starts[0]]
        return [padded[:, rows, columns] for rows in starts[0] for columns in starts[1]]

    def input_rows(
        self, inputs: jax.Array, sum_positions: bool
    ) -> tuple[jax.Array, int]:
        """See base class.

        To sum patches takes one window sum for each kernel element, and no patch has
        to be formed (Dangel, arXiv 2307.02275).
        """
        windows = self._windows(self._padded(inputs))
        n_axes = len(self._kernel)
        multiplicity = 1
        if sum_positions:
            multiplicity = math.prod(windows[0].shape[1:-1])
            pixels = tuple(range(1, n_axes + 1))
            windows = [window.sum(pixels)[:, None] for window in windows]
        else:
            batch, channels = windows[0].shape[0], windows[0].shape[-1]
            windows = [window.reshape(batch, -1, channels) for window in windows]
        # Channels before kernel elements, since the first of them make the groups.
        patches = jnp.stack(windows, -1)
        return patches.reshape(*patches.shape[:2], self.groups, -1), multiplicity

    def gradient_rows(self, gradients: jax.Array) -> jax.Array:
        """See base class."""
        n_axes = len(self._kernel)
        positions = math.prod(gradients.shape[-n_axes - 1 : -1])
        return gradients.reshape(-1, positions, self.groups, self.output_dim)

    def to_matrix(self, gradients: Sequence[jax.Array]) -> jax.Array:
        """See base class."""
        n_axes = len(self._kernel)
        kernel = gradients[0].transpose(n_axes + 1, n_axes, *range(n_axes))
        matrix = kernel.reshape(self.groups, self.output_dim, -1)
        if not self.has_bias:
            return matrix
        bias = gradients[1].reshape(self.groups, self.output_dim, 1)
        return jnp.concatenate([matrix, bias], -1)

    def from_matrix(self, matrix: jax.Array) -> list[jax.Array]:
        """See base class."""
        n_axes = len(self._kernel)
        weight = matrix[..., :-1] if self.has_bias else matrix
        order = (n_axes + 1, n_axes, *range(n_axes))
        parts = [ordered_back(weight, self.kernel_shape, order)]
        if self.has_bias:
            parts.append(matrix[..., -1].reshape(-1))
        return parts


def _per_axis(value: int | Sequence[int] | None, n_axes: int) -> tuple[int, ...]:
    if value is None:
        return (1,) * n_axes
    return (value,) * n_axes if isinstance(value, int) else tuple(value)
