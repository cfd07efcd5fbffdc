"""Cuts the committed subset out of the published Fashion-MNIST files.

The subset is class balanced and keeps the order of the published files: of every
class it takes the first 1,000 images of the training part, the first 200 of the
validation part and the first 150 of the test file.
"""

import hashlib
import io
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np

from workloads_overrides.imagenet_vit_fashion_mnist import dataset, idx_files

PER_CLASS = {'train': 1_000, 'validation': 200, 'test': 150}

SOURCE_SHA256 = {
    'train-images-idx3-ubyte.gz': (
        'b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7'
    ),
    'train-labels-idx1-ubyte.gz': (
        '0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056'
    ),
    't10k-images-idx3-ubyte.gz': (
        'cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa'
    ),
    't10k-labels-idx1-ubyte.gz': (
        '8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05'
    ),
}


def check_sources(folder: pathlib.Path) -> None:
    """Raises unless the folder holds the four files exactly as published."""
    for name in idx_files.FILE_NAMES.values():
        path = folder / name
        if not path.exists():
            raise FileNotFoundError(
                f'{path} is missing; install the Debian package '
                'dataset-fashion-mnist or give the folder of the four idx files.'
            )
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != SOURCE_SHA256[name]:
            raise ValueError(
                f'{path} is not the published file (SHA-256 {found}, expected '
                f'{SOURCE_SHA256[name]}); fetch it again.'
            )


def first_of_each_class(labels: np.ndarray, per_class: int) -> np.ndarray:
    """Returns the positions of the first images of every class, in file order.

    Args:
        labels: Classes `[N]`.
        per_class: How many images of each class to take.

    Returns:
        Ascending positions `[10 * per_class]`.
    """
    positions = [
        np.flatnonzero(labels == label)[:per_class]
        for label in range(dataset.NUM_CLASSES)
    ]
    short = [label for label, found in enumerate(positions) if len(found) < per_class]
    if short:
        raise ValueError(f'Classes {short} have fewer than {per_class} images.')
    return np.sort(np.concatenate(positions))


def select(full: Mapping[str, dataset.Images]) -> dict[str, dataset.Images]:
    """Returns the class-balanced part of every split of the full set."""
    subset = {}
    for name, per_class in PER_CLASS.items():
        positions = first_of_each_class(full[name].labels, per_class)
        subset[name] = dataset.Images(
            full[name].pixels[positions], full[name].labels[positions]
        )
    return subset


def write(splits: Mapping[str, dataset.Images], path: pathlib.Path) -> None:
    """Writes an npz that has the same bytes whenever and wherever it is written.

    `np.savez_compressed` leaves the compression level and the stored dates to the
    libraries' defaults, and 1,500 test images fit the size limit only at level 9.
    """
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, images in splits.items():
            for field, array in (
                ('pixels', images.pixels),
                ('labels', images.labels.astype(np.uint8)),
            ):
                member = io.BytesIO()
                np.lib.format.write_array(member, np.ascontiguousarray(array))
                info = zipfile.ZipInfo(f'{name}_{field}.npy')
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, member.getvalue(), compresslevel=9)
