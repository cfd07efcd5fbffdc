"""Convolutions and transposed convolutions: linear layers on patches."""

import itertools
import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kfac_layer import KFACLayer
from .weight_sharing import sums_dtype


class _Convolution(KFACLayer):
    """What all convolutions share; the positions are the output pixels.

    Those over one axis are handled as two-dimensional.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        assert isinstance(
            module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d
        )
        self.groups = module.groups
        super().__init__(name, module)
        self._is_1d = isinstance(module, nn.Conv1d | nn.ConvTranspose1d)
        self._kernel = self._lifted(module.kernel_size)
        self._stride = self._lifted(module.stride)
        self._dilation = self._lifted(module.dilation)

    def _lifted(self, sizes: Sequence[int], missing: int = 1) -> tuple[int, ...]:
        """Puts the axis that one-dimensional convolutions lack before the other."""
        return (missing, *sizes) if self._is_1d else tuple(sizes)

    def _batched(self, images: Tensor) -> Tensor:
        """Gives a single image a batch axis."""
        spatial_axes = 1 if self._is_1d else 2
        return images.unsqueeze(0) if images.dim() == spatial_axes + 1 else images

    def _output_pixels(self, output_shape: Sequence[int]) -> tuple[int, ...]:
        """Returns the number of output pixels along both axes."""
        return self._lifted(output_shape[-1 if self._is_1d else -2 :])

    @property
    def _patch_dim(self) -> int:
        """Number of values in the patch of a group.

        Said wherever rows are formed, since an empty batch leaves no size to infer.
        """
        return self.input_dim - (self.bias is not None)

    def _summed_rows(
        self, images: Tensor, windows: Iterable[tuple[slice, ...]]
    ) -> Tensor:
        """Sums the patches of each image without unfolding (Dangel, arXiv 2307.02275).

        One kernel element meets a window of the image, so the sum of all patches takes
        one window sum for each kernel element.

        Args:
          images: Shape `[examples, channels, height, width]`.
          windows: What each kernel element meets along both axes, in the order of the
            weight.

        Returns:
          One row an example, shape `[examples, 1, groups, d]`.
        """
        dtype = sums_dtype(images.dtype)
        sums = [
            images[:, :, rows, columns].sum((2, 3), dtype=dtype)
            for rows, columns in windows
        ]
        patches = torch.stack(sums, -1)
        return patches.view(len(images), 1, self.groups, self._patch_dim)

    def gradient_rows(self, gradients: Tensor) -> Tensor:
        """See base class."""
        images = self._batched(gradients)
        n_positions = math.prod(self._output_pixels(images.shape))
        rows = images.reshape(len(images), self.groups, self.output_dim, n_positions)
        return rows.permute(0, 3, 1, 2)


class ConvLayer(_Convolution):
    """`nn.Conv1d` and `nn.Conv2d`.

    A row is the patch of the (padded) input under the kernel at one output pixel.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        assert isinstance(module, nn.Conv1d | nn.Conv2d)
        super().__init__(name, module)
        # Also right for padding='same', where the sides may differ.
        self._padding = list(module._reversed_padding_repeated_twice)
        self._padding_mode = module.padding_mode

    def _padded(self, inputs: Tensor) -> Tensor:
        images = self._batched(inputs)
        if any(self._padding):
            mode = 'constant' if self._padding_mode == 'zeros' else self._padding_mode
            images = F.pad(images, self._padding, mode=mode)
        return images.unsqueeze(2) if self._is_1d else images

    def input_rows(
        self, inputs: Tensor, sum_positions: bool, output_shape: Sequence[int]
    ) -> tuple[Tensor, int]:
        """See base class."""
        padded = self._padded(inputs)
        if sum_positions:
            return self._summed_patches(padded, output_shape)
        patches = F.unfold(
            padded, self._kernel, dilation=self._dilation, stride=self._stride
        )
        n, _, positions = patches.shape
        rows = patches.view(n, self.groups, self._patch_dim, positions)
        return rows.permute(0, 3, 1, 2), 1

    def _summed_patches(
        self, padded: Tensor, output_shape: Sequence[int]
    ) -> tuple[Tensor, int]:
        """Sums the patches; a kernel element meets a strided window of the input."""
        pixels = self._output_pixels(output_shape)
        starts: list[list[slice]] = []
        for axis, n_out in enumerate(pixels):
            stride, dilation = self._stride[axis], self._dilation[axis]
            span = stride * (n_out - 1) + 1
            starts.append(
                [
                    slice(k * dilation, k * dilation + span, stride)
                    for k in range(self._kernel[axis])
                ]
            )
        rows = self._summed_rows(padded, itertools.product(*starts))
        return rows, math.prod(pixels)


class ConvTransposeLayer(_Convolution):
    """`nn.ConvTranspose1d` and `nn.ConvTranspose2d`.

    A row is the patch under the flipped kernel, at one output pixel, of the input with
    `stride - 1` zeros between its pixels and padding around them. Along an axis,
    element k of the weight meets input pixel i at output pixel
    `stride * i + dilation * k - padding`. That says all, so the zeros and the flipped
    kernel are never formed. The elements of a row are in the order of the weight.
    """

    def __init__(self, name: str, module: nn.Module) -> None:
        assert isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d)
        super().__init__(name, module)
        assert isinstance(module.padding, tuple)
        self._padding = self._lifted(module.padding, missing=0)
        # The weight is `[C_in, C_out / groups, *kernel]`.
        self.output_dim = self.weight.shape[1]
        self.input_dim = self.weight[:, 0].numel() // self.groups
        self.input_dim += self.bias is not None

    def input_rows(
        self, inputs: Tensor, sum_positions: bool, output_shape: Sequence[int]
    ) -> tuple[Tensor, int]:
        """See base class."""
        images = self._batched(inputs)
        images = images.unsqueeze(2) if self._is_1d else images
        n, channels = images.shape[:2]
        pixels = self._output_pixels(output_shape)
        n_positions = math.prod(pixels)
        met = list(itertools.product(*self._meetings(images.shape[2:], pixels)))
        if sum_positions:
            windows = ((rows, columns) for (rows, _), (columns, _) in met)
            return self._summed_rows(images, windows), n_positions
        patches = images.new_zeros(n, *pixels, channels, len(met))
        channels_last = images.permute(0, 2, 3, 1)
        for k, ((rows, at_rows), (columns, at_columns)) in enumerate(met):
            patches[:, at_rows, at_columns, :, k] = channels_last[:, rows, columns]
        return patches.view(n, n_positions, self.groups, self._patch_dim), 1

    def _meetings(
        self, n_in: Sequence[int], n_out: Sequence[int]
    ) -> list[list[tuple[slice, slice]]]:
        """Returns what each kernel element of each axis meets, and where.

        Args:
          n_in: Number of input pixels along each axis.
          n_out: Number of output pixels along each axis.

        Returns:
          For each axis and element the input pixels that it meets, and the output
          pixels at which it does.
        """
        return [
            [
                _meeting(k * dilation - padding, stride, n_in[axis], n_out[axis])
                for k in range(self._kernel[axis])
            ]
            for axis, (stride, dilation, padding) in enumerate(
                zip(self._stride, self._dilation, self._padding, strict=True)
            )
        ]

    def to_matrix(self, gradients: Sequence[Tensor]) -> Tensor:
        """See base class."""
        inputs = -self.weight.dim()
        by_input = gradients[0].unflatten(inputs, (self.groups, -1))
        by_output = by_input.transpose(inputs, inputs + 1)
        # Group and output together are what the first axis of other layers is.
        weight = by_output.flatten(inputs - 1, inputs)
        return super().to_matrix([weight, *gradients[1:]])

    def from_matrix(self, matrix: Tensor) -> list[Tensor]:
        """See base class."""
        weight, *bias = super().from_matrix(matrix)
        inputs, kernel = -self.weight.dim(), self.weight.shape[2:]
        leading = matrix.shape[:-3]
        by_output = weight.reshape(*leading, self.groups, self.output_dim, -1, *kernel)
        by_input = by_output.transpose(inputs, inputs + 1)
        return [by_input.reshape(*leading, *self.weight.shape), *bias]


def _meeting(offset: int, stride: int, n_in: int, n_out: int) -> tuple[slice, slice]:
    """Returns the input and the output pixels that meet at one kernel element.

    Args:
      offset: Input pixel i meets it at output pixel `stride * i + offset`.
      stride: See above.
      n_in: Number of input pixels.
      n_out: Number of output pixels.
    """
    # The first and the last input pixel of which there is that output pixel.
    first = max(-(offset // stride), 0)
    last = min((n_out - 1 - offset) // stride, n_in - 1)
    if last < first:
        return slice(0), slice(0)
    outputs = slice(stride * first + offset, stride * last + offset + 1, stride)
    return slice(first, last + 1), outputs
