"""Reads the idx files that Fashion-MNIST is published as."""

import gzip
import math
import pathlib
import struct
import zlib

import numpy as np

FILE_NAMES = {
    'train_images': 'train-images-idx3-ubyte.gz',
    'train_labels': 'train-labels-idx1-ubyte.gz',
    'test_images': 't10k-images-idx3-ubyte.gz',
    'test_labels': 't10k-labels-idx1-ubyte.gz',
}

# An idx file starts with two zero bytes, a type code and the number of axes.
_UNSIGNED_BYTE = 8


def read_idx(path: pathlib.Path) -> np.ndarray:
    """Reads one gzip-compressed idx file of unsigned bytes.

    Args:
        path: The file, as published (`*-ubyte.gz`).

    Returns:
        The uint8 array of the shape that the file's header states.

    Raises:
        ValueError: The file is damaged or holds something else.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f'{path} is not a complete gzip file ({error}); fetch it again.'
        ) from error
    problem = f'{path} is not an idx file of unsigned bytes; fetch it again.'
    if len(content) < 4 or content[:3] != bytes((0, 0, _UNSIGNED_BYTE)):
        raise ValueError(problem)
    num_axes = content[3]
    header_size = 4 + 4 * num_axes
    if len(content) < header_size:
        raise ValueError(problem)
    shape = struct.unpack(f'>{num_axes}I', content[4:header_size])
    if len(content) - header_size != math.prod(shape):
        raise ValueError(
            f'{path} holds {len(content) - header_size} bytes of data, its header '
            f'states the shape {shape}; fetch it again.'
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header_size).reshape(shape)


def read_images_and_labels(
    folder: pathlib.Path, part: str
) -> tuple[np.ndarray, np.ndarray]:
    """Reads the images and labels of one published part.

    Args:
        folder: The folder that holds the four files.
        part: `'train'` or `'test'`.

    Returns:
        Images `[N, H, W]` and labels `[N]`, both uint8.

    Raises:
        ValueError: A file is damaged, or the two do not belong together.
    """
    images_path = folder / FILE_NAMES[f'{part}_images']
    labels_path = folder / FILE_NAMES[f'{part}_labels']
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise ValueError(
            f'{images_path} holds an array of shape {images.shape} and {labels_path} '
            f'one of shape {labels.shape}; expected [N, height, width] and [N].'
        )
    return images, labels
