"""Small fabricated data sets, written as the published ones are."""

import gzip
import struct

import numpy as np
import pytest
import torch

from workloads_overrides.imagenet_vit_fashion_mnist import idx_files
from workloads_overrides.imagenet_vit_fashion_mnist.dataset import Images


def _write_idx(path, array):
    header = struct.pack(f'>4B{array.ndim}I', 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=1))


def _numbered_images(count, offset=0):
    """Images that carry their own number in the first two pixels."""
    pixels = np.zeros((count, 28, 28), np.uint8)
    numbers = np.arange(count) + offset
    pixels[:, 0, 0], pixels[:, 0, 1] = numbers // 256, numbers % 256
    return pixels, (numbers % 10).astype(np.uint8)


@pytest.fixture(scope='package', autouse=True)
def one_thread():
    """Small models gain nothing from threads, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def write_idx():
    return _write_idx


@pytest.fixture
def write_full_set():
    """Returns a function that writes the four idx files into a folder."""

    def write(folder, num_train, num_test):
        folder.mkdir(parents=True, exist_ok=True)
        for part, count in (('train', num_train), ('test', num_test)):
            pixels, labels = _numbered_images(count)
            _write_idx(folder / idx_files.FILE_NAMES[f'{part}_images'], pixels)
            _write_idx(folder / idx_files.FILE_NAMES[f'{part}_labels'], labels)

    return write


@pytest.fixture
def random_images():
    """Thirty-seven images of noise; the label of each is its own position."""
    pixels = np.random.RandomState(3).randint(1, 256, size=(37, 28, 28))
    return Images(pixels.astype(np.uint8), np.arange(37))
