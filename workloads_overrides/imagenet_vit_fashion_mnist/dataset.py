"""Loads Fashion-MNIST: the committed subset, or the full set where it is installed.

The splits of both are cut by the same rule. Training images come from the first
part of the published training file, validation images from its last 10,000, and
test images from the published test file, so each split of the subset lies within
the same split of the full set.
"""

import hashlib
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from absl import logging

from workloads_overrides.data_folder import existing_folder
from workloads_overrides.imagenet_vit_fashion_mnist import idx_files

NUM_CLASSES = 10
IMAGE_SIZE = 28
NUM_FULL_VALIDATION = 10_000
SPLITS = ('train', 'validation', 'test')

# Mean and standard deviation of all pixels of the committed training images, in
# units of the stored bytes (0 to 255). Also used with the full set, so that a
# model sees the same inputs with both.
TRAIN_MEAN = 73.1038200255102
TRAIN_STDDEV = 90.27320602832212

SUBSET_PATH = pathlib.Path(__file__).parent / 'data' / 'fashion_mnist_subset.npz'
# Over the arrays and not over the file, whose bytes vary with the zlib version.
SUBSET_SHA256 = 'eb323e8595762e4e56265d27139fea40422fd20189554d04096aff38076a68db'
_BUILD_COMMAND = 'python -m workloads_overrides.imagenet_vit_fashion_mnist.build_data'


class Images(NamedTuple):
    """One split.

    Attributes:
        pixels: uint8 `[N, 28, 28]`.
        labels: int64 `[N]`, classes 0 to 9.
    """

    pixels: np.ndarray
    labels: np.ndarray


def content_hash(splits: Mapping[str, Images]) -> str:
    """Returns the SHA-256 of all pixels and labels, split by split."""
    digest = hashlib.sha256()
    for name in SPLITS:
        images = splits[name]
        digest.update(f'{name} {images.pixels.shape}'.encode())
        digest.update(images.pixels.tobytes())
        digest.update(images.labels.astype(np.uint8).tobytes())
    return digest.hexdigest()


def load(data_dir: str | pathlib.Path | None = None) -> dict[str, Images]:
    """Loads the three splits.

    Args:
        data_dir: A folder that holds the four published idx files, directly or in
            its sub-folder `fashion-mnist`. The committed subset is loaded for
            None and, with a warning, for a folder that holds none of them.

    Returns:
        Split name (`train`, `validation`, `test`) to its images.

    Raises:
        FileNotFoundError: There is no such folder, only some of the four files
            exist, or the committed subset is missing.
        ValueError: A file is damaged.
    """
    folder = existing_folder(data_dir)
    full_set = None if folder is None else find_full_set(folder)
    if full_set is not None:
        logging.info('Data: full Fashion-MNIST in %s.', full_set)
        return load_full_set(full_set)
    if folder is not None:
        logging.warning('%s holds no Fashion-MNIST; using the subset.', folder)
    logging.info('Data: committed subset of Fashion-MNIST, %s.', SUBSET_PATH)
    return load_subset()


def find_full_set(data_dir: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder with the four idx files, or None where there are none."""
    for folder in (data_dir, data_dir / 'fashion-mnist'):
        missing = [
            name
            for name in idx_files.FILE_NAMES.values()
            if not (folder / name).exists()
        ]
        if not missing:
            return folder
        if len(missing) < len(idx_files.FILE_NAMES):
            raise FileNotFoundError(
                f'{folder} holds a part of Fashion-MNIST but lacks '
                f'{", ".join(missing)}; add what is missing, or give another '
                'data_dir to use the committed subset.'
            )
    return None


def load_full_set(
    folder: pathlib.Path, num_validation: int = NUM_FULL_VALIDATION
) -> dict[str, Images]:
    """Loads the full set; the last images of the training file validate.

    Args:
        folder: The folder that holds the four published idx files.
        num_validation: How many images of the training file to set aside.

    Returns:
        Split name to its images.
    """
    pixels, labels = idx_files.read_images_and_labels(folder, 'train')
    if len(pixels) <= num_validation:
        raise ValueError(
            f'{folder / idx_files.FILE_NAMES["train_images"]} holds {len(pixels)} '
            f'images; more than {num_validation} are needed, since the last '
            f'{num_validation} validate.'
        )
    test_pixels, test_labels = idx_files.read_images_and_labels(folder, 'test')
    return {
        'train': _images(pixels[:-num_validation], labels[:-num_validation]),
        'validation': _images(pixels[-num_validation:], labels[-num_validation:]),
        'test': _images(test_pixels, test_labels),
    }


def load_subset(path: pathlib.Path = SUBSET_PATH) -> dict[str, Images]:
    """Loads the committed subset and checks its content."""
    if not path.exists():
        raise FileNotFoundError(
            f'{path} is missing; restore it from the repository or rebuild it with '
            f'`{_BUILD_COMMAND}`.'
        )
    try:
        with np.load(path) as arrays:
            splits = {
                name: _images(arrays[f'{name}_pixels'], arrays[f'{name}_labels'])
                for name in SPLITS
            }
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError) as error:
        raise ValueError(
            f'{path} cannot be read ({error}); restore it from the repository or '
            f'rebuild it with `{_BUILD_COMMAND}`.'
        ) from error
    check_content(splits, path)
    return splits


def check_content(splits: Mapping[str, Images], path: pathlib.Path) -> None:
    """Raises unless the splits are exactly those of the committed subset."""
    found = content_hash(splits)
    if found != SUBSET_SHA256:
        raise ValueError(
            f'{path}: the images or labels are not those of the committed subset '
            f'(SHA-256 {found}, expected {SUBSET_SHA256}); restore the file from the '
            f'repository or rebuild it with `{_BUILD_COMMAND}`.'
        )


def _images(pixels: np.ndarray, labels: np.ndarray) -> Images:
    return Images(pixels, labels.astype(np.int64))
