"""Batches of images as numpy arrays: an augmented training queue and evaluation.

Everything random is a function of the key and a counter, so a queue can be moved
to any batch at once and then yields exactly the batches that would have followed.
"""

import math
from collections.abc import Sequence

import numpy as np

from workloads_overrides.imagenet_vit_fashion_mnist.dataset import (
    IMAGE_SIZE,
    TRAIN_MEAN,
    TRAIN_STDDEV,
    Images,
)

# Random crops move an image by up to this many pixels in each direction.
PADDING = 2

# Keeps the draws that order an epoch apart from those that augment a batch.
_ORDER_STREAM, _AUGMENT_STREAM = 0, 1

NumpyBatch = dict[str, np.ndarray]


def _generator(key: Sequence[int], stream: int, counter: int) -> np.random.RandomState:
    # numpy promises the same draws from this generator in every version.
    words = [int(word) % 2**32 for word in key]
    return np.random.RandomState([*words, stream, counter])


def epoch_order(key: Sequence[int], epoch: int, num_images: int) -> np.ndarray:
    """Returns the order `[num_images]` in which an epoch visits the images."""
    return _generator(key, _ORDER_STREAM, epoch).permutation(num_images)


def random_crop_and_flip(
    padded: np.ndarray, which: np.ndarray, rng: np.random.RandomState
) -> np.ndarray:
    """Cuts one random window out of each chosen image and mirrors half of them.

    Args:
        padded: Images with their border, `[N, 28 + 2 * PADDING, 28 + 2 * PADDING]`.
        which: Positions `[B]` of the chosen images.
        rng: Source of the windows and of the mirroring.

    Returns:
        Windows `[B, 28, 28]` of the dtype of `padded`.
    """
    rows, columns = rng.randint(0, 2 * PADDING + 1, size=[2, len(which)])
    mirrored = rng.randint(0, 2, size=len(which)).astype(bool)
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, (IMAGE_SIZE, IMAGE_SIZE), axis=(1, 2)
    )
    crops = windows[which, rows, columns]
    crops[mirrored] = crops[mirrored, :, ::-1]
    return crops


def normalise(pixels: np.ndarray, channels_last: bool) -> np.ndarray:
    """Returns float32 model inputs from pixels `[B, 28, 28]`.

    Args:
        pixels: uint8 images.
        channels_last: Whether to return `[B, 28, 28, 1]` and not `[B, 1, 28, 28]`.

    Returns:
        Inputs with mean 0 and standard deviation 1 over the training images.
    """
    scaled = (pixels.astype(np.float32) - np.float32(TRAIN_MEAN)) / np.float32(
        TRAIN_STDDEV
    )
    return np.expand_dims(scaled, -1 if channels_last else 1)


class TrainBatches:
    """Endless queue of augmented batches, reshuffled at every epoch.

    An epoch consists of full batches; the images that are left over when it ends
    are passed over, and the next epoch starts from all images again.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        key: Sequence[int],
        channels_last: bool = False,
    ) -> None:
        """Takes the training images and the key of all randomness.

        Args:
            images: The training split.
            batch_size: Images per batch.
            key: A pair of integers; equal keys give equal batches.
            channels_last: Whether inputs are `[B, 28, 28, 1]`, not `[B, 1, 28, 28]`.
        """
        self._batches_per_epoch = len(images.labels) // batch_size
        if self._batches_per_epoch == 0:
            raise ValueError(
                f'A batch of {batch_size} needs more than the {len(images.labels)} '
                'training images; use a smaller batch.'
            )
        border = (PADDING, PADDING)
        self._padded = np.pad(images.pixels, ((0, 0), border, border))
        self._labels = images.labels
        self._batch_size = batch_size
        self._key = key
        self._channels_last = channels_last
        self._next_batch = 0
        self._ordered_epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def __iter__(self) -> 'TrainBatches':
        return self

    def __next__(self) -> NumpyBatch:
        """Returns float32 `inputs` and int64 `targets` `[B]`."""
        epoch, position = divmod(self._next_batch, self._batches_per_epoch)
        if epoch != self._ordered_epoch:
            self._order = epoch_order(self._key, epoch, len(self._labels))
            self._ordered_epoch = epoch
        start = position * self._batch_size
        which = self._order[start : start + self._batch_size]
        rng = _generator(self._key, _AUGMENT_STREAM, self._next_batch)
        self._next_batch += 1
        return {
            'inputs': normalise(
                random_crop_and_flip(self._padded, which, rng), self._channels_last
            ),
            'targets': self._labels[which],
        }

    def skip(self, num_batches: int) -> None:
        """Passes over batches without building them."""
        if num_batches < 0:
            raise ValueError(f'Cannot skip {num_batches} batches.')
        self._next_batch += num_batches


class EvalBatches:
    """Endless passes over a split in its stored order, without augmentation.

    The last batch of a pass is filled up with blank images of weight 0, so all
    batches have one size.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        num_batches: int | None = None,
        channels_last: bool = False,
    ) -> None:
        """Takes the split to evaluate.

        Args:
            images: The split.
            batch_size: Images per batch.
            num_batches: Length of a pass; None covers the whole split.
            channels_last: Whether inputs are `[B, 28, 28, 1]`, not `[B, 1, 28, 28]`.
        """
        whole_split = math.ceil(len(images.labels) / batch_size)
        self._num_batches = min(num_batches or whole_split, whole_split)
        self._images = images
        self._batch_size = batch_size
        self._channels_last = channels_last
        self._position = 0

    def __iter__(self) -> 'EvalBatches':
        return self

    def __next__(self) -> NumpyBatch:
        """Returns `inputs`, `targets` `[B]` and float32 `weights` `[B]`."""
        start = self._position * self._batch_size
        self._position = (self._position + 1) % self._num_batches
        labels = self._images.labels[start : start + self._batch_size]
        pixels = self._images.pixels[start : start + self._batch_size]
        missing = self._batch_size - len(labels)
        return {
            'inputs': normalise(
                np.pad(pixels, ((0, missing), (0, 0), (0, 0))), self._channels_last
            ),
            'targets': np.pad(labels, (0, missing)),
            'weights': np.pad(np.ones(len(labels), np.float32), (0, missing)),
        }
