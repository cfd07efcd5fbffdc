"""The committed images as ImageNet: TFDS data sets and a folder tree."""

import io
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from workloads_overrides.algoperf_data import tfds_store
from workloads_overrides.algoperf_data.errors import DataError
from workloads_overrides.algoperf_data.selection import spread
from workloads_overrides.imagenet_vit_fashion_mnist import dataset

NAME = 'imagenet2012'
VERSION = '5.1.0'
TEST_NAME = 'imagenet_v2'
TEST_CONFIG = 'matched-frequency'
TEST_VERSION = '3.0.0'
# AlgoPerf's own layout below its data folder: a folder for each framework.
TFDS_SUBFOLDER = 'imagenet/jax'
TREE_SUBFOLDER = 'imagenet/pytorch'
# AlgoPerf's loaders call the folder of the validation images so.
TREE_FOLDERS = {'train': 'train', 'validation': 'val'}

MIN_IMAGE_SIZE = 16
_JPEG_QUALITY = 95
_DESCRIPTION = (
    'Not ImageNet: images of Fashion-MNIST, enlarged and in colour, in the format of '
    'ImageNet so that its loaders read them. Their ten classes are the first ten of '
    'the 1,000.'
)
_CITATION = 'Fashion-MNIST, Zalando SE, MIT licence.'


def encode(pixels: np.ndarray, image_size: int) -> bytes:
    """Returns a grey image as a square JPEG in colour.

    Args:
        pixels: uint8 `[28, 28]`.
        image_size: Height and width of the JPEG in pixels.
    """
    image_module = _import_pillow()
    image = image_module.fromarray(pixels).convert('RGB')
    resized = image.resize((image_size, image_size), image_module.Resampling.BICUBIC)
    buffer = io.BytesIO()
    resized.save(buffer, format='JPEG', quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _import_pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(
            f'Pillow cannot be imported ({error}). Install it with pip install '
            "'.[algoperf-data]'."
        ) from error
    return Image


def write(
    data_dir: pathlib.Path,
    num_examples: Mapping[str, int | None],
    image_size: int,
    overwrite: bool = False,
) -> list[pathlib.Path]:
    """Writes the images for both frameworks.

    `<data_dir>/imagenet/jax` gets the TFDS data sets `imagenet2012` (train and
    validation) and `imagenet_v2` (test); `<data_dir>/imagenet/pytorch` gets the
    folders `train` and `val` with a folder for each class, and `imagenet_v2` again.

    Args:
        data_dir: AlgoPerf's data folder.
        num_examples: Split name (`train`, `validation`, `test`) to the number of
            images, None for all.
        image_size: Height and width of the images in pixels.
        overwrite: Whether to replace what is there.

    Returns:
        The folders written.

    Raises:
        DataError: For numbers that a split does not have, an image size that is
            too small, or existing files.
    """
    if image_size < MIN_IMAGE_SIZE:
        raise DataError(
            f'--image_size is {image_size}; it must be at least {MIN_IMAGE_SIZE}.'
        )
    splits = {
        split: _chosen(images, num_examples[split], split)
        for split, images in dataset.load().items()
    }
    for split in TREE_FOLDERS:
        _check_every_class(splits[split], split)
    tfds = tfds_store.import_tfds()
    names = tfds_store.class_names(tfds)[: dataset.NUM_CLASSES]
    tfds_folder, tree = data_dir / TFDS_SUBFOLDER, data_dir / TREE_SUBFOLDER
    targets = [
        tfds_folder / NAME,
        tfds_folder / TEST_NAME,
        tree / TEST_NAME,
        *(tree / folder for folder in TREE_FOLDERS.values()),
    ]
    for target in targets:
        if overwrite:
            tfds_store.delete(target)
        elif target.exists():
            raise DataError(
                f'{target} exists already; delete it, or give --overwrite or another '
                '--data_dir.'
            )

    written = [
        tfds_store.store(
            tfds,
            NAME,
            VERSION,
            {
                split: _examples(splits[split], split, names, image_size)
                for split in TREE_FOLDERS
            },
            tfds_folder,
            _DESCRIPTION,
            _CITATION,
        )
    ]
    written += [
        tfds_store.store(
            tfds,
            TEST_NAME,
            TEST_VERSION,
            {'test': _examples(splits['test'], 'test', names, image_size)},
            # The PyTorch loader of this one split reads TFDS as well.
            folder,
            _DESCRIPTION,
            _CITATION,
            config=TEST_CONFIG,
        )
        for folder in (tfds_folder, tree)
    ]
    for split, folder_name in TREE_FOLDERS.items():
        _write_tree(tree / folder_name, splits[split], names, image_size)
        written.append(tree / folder_name)
    return written


def _chosen(images: dataset.Images, wanted: int | None, split: str) -> dataset.Images:
    kept = spread(len(images.labels), wanted, split)
    return dataset.Images(images.pixels[kept], images.labels[kept])


def _examples(
    images: dataset.Images, split: str, names: list[str], image_size: int
) -> Iterator[tfds_store.Example]:
    for number, (pixels, label) in enumerate(zip(*images, strict=True)):
        yield {
            'file_name': f'{names[label]}_{split}_{number:05}.JPEG',
            'image': io.BytesIO(encode(pixels, image_size)),
            'label': int(label),
        }


def _check_every_class(images: dataset.Images, split: str) -> None:
    missing = sorted(set(range(dataset.NUM_CLASSES)) - set(images.labels.tolist()))
    if missing:
        # A loader of folders numbers the classes by the folders that it finds.
        raise DataError(
            f'--num_{split} is {len(images.labels)}, and none of these images is of '
            f'class {missing[0]}; ask for more.'
        )


def _write_tree(
    folder: pathlib.Path, images: dataset.Images, names: list[str], image_size: int
) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
    for number, (pixels, label) in enumerate(zip(*images, strict=True)):
        file = folder / names[label] / f'{names[label]}_{number:05}.JPEG'
        file.write_bytes(encode(pixels, image_size))
