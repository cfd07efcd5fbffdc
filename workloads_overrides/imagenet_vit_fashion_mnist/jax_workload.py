"""The workload in JAX."""

import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from workloads_overrides import spec
from workloads_overrides.imagenet_vit_fashion_mnist import dataset
from workloads_overrides.imagenet_vit_fashion_mnist.jax_model import ViT
from workloads_overrides.imagenet_vit_fashion_mnist.workload import (
    S_SIZE,
    WIDE_SIZE,
    BaseImagenetVitFashionMnistWorkload,
    Glu,
    ModelSize,
)
from workloads_overrides.jax_workload import JaxWorkload, Params


class ImagenetVitFashionMnistWorkload(JaxWorkload, BaseImagenetVitFashionMnistWorkload):
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
        """Returns the batches of a split as numpy arrays.

        Batches hold float32 `inputs` `[B, 28, 28, 1]` and int64 `targets` `[B]`;
        those of an evaluation split also float32 `weights` `[B]`. The training
        queue is endless and has `skip(n)`.

        Raises:
            ValueError: If the devices cannot share a batch equally.
        """
        del cache, repeat_final_dataset  # All data is in memory and repeats.
        if global_batch_size % jax.device_count():
            raise ValueError(
                f'A batch of {global_batch_size} images cannot be shared equally by '
                f'{jax.device_count()} devices; use a multiple of their number.'
            )
        return self.build_numpy_queue(
            data_rng,
            split,
            data_dir,
            global_batch_size,
            num_batches,
            channels_last=True,
        )

    def init_model_fn(self, rng: spec.RandomState) -> tuple[Params, None]:
        """Returns new parameters; the same key gives the same ones."""
        model = ViT(num_classes=dataset.NUM_CLASSES, **self._architecture())
        images = jnp.ones((1, dataset.IMAGE_SIZE, dataset.IMAGE_SIZE, 1))
        # AlgoPerf's imagenet_vit takes the first key, its ogbg the second.
        params_rng = jax.random.split(rng)[0]
        return self._initialised(params_rng, model, images)

    def is_output_params(self, param_key: str) -> bool:
        """Whether a layer, named by the first key of its parameters, is the head."""
        return param_key == 'head'

    def loss_fn(
        self,
        label_batch: jax.Array,
        logits_batch: jax.Array,
        mask_batch: jax.Array | None = None,
        label_smoothing: float = 0.0,
    ) -> dict[str, jax.Array]:
        """Returns the softmax cross entropy of a batch.

        Args:
            label_batch: Classes `[B]`, or probabilities `[B, 10]`.
            logits_batch: Logits `[B, 10]`.
            mask_batch: Weights `[B]`, 0 for padding; None counts all examples.
            label_smoothing: Share of each target that is spread over all classes.

        Returns:
            `summed` (scalar), `n_valid_examples` (scalar) and `per_example` `[B]`.
        """
        probabilities = jnp.asarray(label_batch)
        if probabilities.ndim == 1:
            probabilities = jax.nn.one_hot(
                probabilities, logits_batch.shape[-1], dtype=logits_batch.dtype
            )
        probabilities = optax.smooth_labels(probabilities, label_smoothing)
        losses = optax.softmax_cross_entropy(logits_batch, probabilities)
        if mask_batch is None:
            num_valid = jnp.asarray(len(losses))
        else:
            losses = losses * mask_batch
            num_valid = jnp.sum(mask_batch)
        return {
            'summed': losses.sum(),
            'n_valid_examples': num_valid,
            'per_example': losses,
        }

    def _evaluate_batch(self, params: Params, batch: spec.Batch) -> jax.Array:
        """Returns the number of correct answers, the summed loss and the count."""
        targets, weights = batch['targets'], batch['weights']
        logits = self._evaluation_logits(params, batch)
        loss = self.loss_fn(targets, logits, weights)
        num_correct = ((logits.argmax(axis=1) == targets) * weights).sum()
        return jnp.stack([num_correct, loss['summed'], loss['n_valid_examples']])

    def _evaluation_batch_size(self, global_batch_size: int) -> int:
        # Blank images fill the last batch, so a larger one changes no result.
        devices = jax.device_count()
        return math.ceil(global_batch_size / devices) * devices

    def _evaluated(
        self, params: Params, batch: spec.Batch, rng: spec.RandomState
    ) -> np.ndarray:
        del rng
        # Sums over batches are taken in double precision.
        return np.asarray(self._jitted_evaluate_batch(params, batch), np.float64)


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
