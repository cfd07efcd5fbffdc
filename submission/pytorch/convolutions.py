"""Convolutions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kfac_layer import KFACLayer
from .weight_sharing import sums_dtype


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
