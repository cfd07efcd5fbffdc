"""The workload in PyTorch."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from workloads_overrides import spec
from workloads_overrides.imagenet_vit_fashion_mnist import dataset
from workloads_overrides.imagenet_vit_fashion_mnist.image_batches import (
    NumpyBatch,
    TrainBatches,
)
from workloads_overrides.imagenet_vit_fashion_mnist.pytorch_model import ViT
from workloads_overrides.imagenet_vit_fashion_mnist.workload import (
    S_SIZE,
    WIDE_SIZE,
    BaseImagenetVitFashionMnistWorkload,
    Glu,
    ModelSize,
)
from workloads_overrides.pytorch_workload import PyTorchWorkload

TorchBatch = dict[str, torch.Tensor]

_ATTENTION_WEIGHTS = {
    'query': spec.ParameterType.ATTENTION_Q,
    'key': spec.ParameterType.ATTENTION_K,
    'value': spec.ParameterType.ATTENTION_V,
    'out': spec.ParameterType.ATTENTION_OUT,
}


def parameter_type(name: str) -> spec.ParameterType:
    """Returns the kind of one of the model's parameters from its dotted name."""
    layer, kind = name.split('.')[-2:]
    is_bias = kind == 'bias'
    if 'norm' in layer:
        if is_bias:
            return spec.ParameterType.LAYER_NORM_BIAS
        return spec.ParameterType.LAYER_NORM_SCALE
    if layer in _ATTENTION_WEIGHTS:
        if is_bias:
            return spec.ParameterType.ATTENTION_BIAS
        return _ATTENTION_WEIGHTS[layer]
    if is_bias:
        return spec.ParameterType.BIAS
    if layer == 'conv_patch_extract':
        return spec.ParameterType.CONV_WEIGHT
    return spec.ParameterType.WEIGHT


def to_torch(batch: NumpyBatch, device: torch.device) -> TorchBatch:
    """Returns a numpy batch as tensors on a device."""
    return {name: torch.from_numpy(array).to(device) for name, array in batch.items()}


class TorchTrainBatches:
    """The training queue with its batches as tensors on a device."""

    def __init__(self, batches: TrainBatches, device: torch.device) -> None:
        self._batches = batches
        self._device = device

    def __iter__(self) -> 'TorchTrainBatches':
        return self

    def __next__(self) -> TorchBatch:
        """Returns `inputs` `[B, 1, 28, 28]` and int64 `targets` `[B]`."""
        return to_torch(next(self._batches), self._device)

    def skip(self, num_batches: int) -> None:
        """Passes over batches without building them."""
        self._batches.skip(num_batches)


class ImagenetVitFashionMnistWorkload(
    PyTorchWorkload, BaseImagenetVitFashionMnistWorkload
):
    """A small vision transformer that trains on a CPU in minutes."""

    default_dropout_rate = 0.0

    def _build_input_queue(
        self,
        data_rng: spec.RandomState,
        split: str,
        data_dir: str | None,
        global_batch_size: int,
        cache: bool | None = None,
        repeat_final_dataset: bool | None = None,
        num_batches: int | None = None,
    ) -> Iterator[spec.Batch]:
        """Returns the batches of a split as tensors.

        Batches hold float32 `inputs` `[B, 1, 28, 28]` and int64 `targets` `[B]`;
        those of an evaluation split also float32 `weights` `[B]`. The training
        queue is endless and has `skip(n)`.
        """
        del cache, repeat_final_dataset  # All data is in memory and repeats.
        batches = self.build_numpy_queue(
            data_rng, split, data_dir, global_batch_size, num_batches
        )
        if isinstance(batches, TrainBatches):
            return TorchTrainBatches(batches, self._device)
        return (to_torch(batch, self._device) for batch in batches)

    def init_model_fn(self, rng: spec.RandomState) -> tuple[nn.Module, None]:
        """Returns a new model; there is no model state."""

        def make_model() -> nn.Module:
            return ViT(
                num_classes=dataset.NUM_CLASSES,
                image_size=dataset.IMAGE_SIZE,
                channels=1,
                **self._architecture(),
            )

        return self._initialised(rng, make_model, parameter_type)

    def loss_fn(
        self,
        label_batch: torch.Tensor,
        logits_batch: torch.Tensor,
        mask_batch: torch.Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> dict[str, torch.Tensor]:
        """Returns the softmax cross entropy of a batch.

        Args:
            label_batch: Classes `[B]`, or probabilities `[B, 10]`.
            logits_batch: Logits `[B, 10]`.
            mask_batch: Weights `[B]`, 0 for padding; None counts all examples.
            label_smoothing: Share of each target that is spread over all classes.

        Returns:
            `summed` (scalar), `n_valid_examples` (scalar) and `per_example` `[B]`.
        """
        losses = functional.cross_entropy(
            logits_batch, label_batch, reduction='none', label_smoothing=label_smoothing
        )
        if mask_batch is None:
            # Filled on the device, so that no number has to travel there.
            num_valid = torch.full((), len(losses), device=losses.device)
        else:
            losses = losses * mask_batch
            num_valid = mask_batch.sum()
        return {
            'summed': losses.sum(),
            'n_valid_examples': num_valid,
            'per_example': losses,
        }

    def _evaluated(
        self, params: nn.Module, batch: spec.Batch, rng: spec.RandomState
    ) -> torch.Tensor:
        logits, _ = self.model_fn(
            params,
            batch,
            None,
            spec.ForwardPassMode.EVAL,
            rng,
            update_batch_norm=False,
        )
        targets, weights = batch['targets'], batch['weights']
        loss = self.loss_fn(targets, logits, weights)
        num_correct = ((logits.argmax(dim=1) == targets) * weights).sum()
        return torch.stack([num_correct, loss['summed'], loss['n_valid_examples']])


class ImagenetVitFashionMnistWideWorkload(ImagenetVitFashionMnistWorkload):
    """The same images with the width of AlgoPerf's ViT-Ti/16 and half its depth."""

    @property
    def model_size(self) -> ModelSize:
        """Sizes between those of a CPU and of the S variant."""
        return WIDE_SIZE


class ImagenetVitFashionMnistS16Workload(ImagenetVitFashionMnistWorkload):
    """The same images with the dimensions of AlgoPerf's ViT-S/16."""

    @property
    def model_size(self) -> ModelSize:
        """Sizes of the S variant; patches of 4 give 49 tokens."""
        return S_SIZE


class ImagenetVitFashionMnistGluWorkload(Glu, ImagenetVitFashionMnistWorkload):
    """The small model with gated MLPs."""
