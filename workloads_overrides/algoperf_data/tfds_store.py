"""Stores examples as a TFDS data set, with the features that TFDS itself declares."""

import pathlib
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from workloads_overrides.algoperf_data.errors import DataError

Example = dict[str, Any]


def import_tfds() -> Any:
    """Imports TensorFlow Datasets, which is not part of the default install.

    Raises:
        DataError: If it is missing.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            f'TensorFlow Datasets cannot be imported ({error}). Install it with '
            "pip install '.[algoperf-data]'."
        ) from error
    return tfds


def class_names(tfds: Any) -> list[str]:
    """Returns the 1,000 synset names of ImageNet in the order of their labels."""
    names: list[str] = tfds.builder('imagenet2012').info.features['label'].names
    return names


def store(
    tfds: Any,
    name: str,
    version: str,
    splits: Mapping[str, Iterable[Example]],
    data_dir: pathlib.Path,
    description: str,
    citation: str,
    config: str | None = None,
) -> pathlib.Path:
    """Writes a data set that `tfds.load` finds in place of the published one.

    The features are asked of the installed TFDS, so the files hold exactly the
    fields that a loader of the published data set expects.

    Args:
        tfds: The module of TensorFlow Datasets.
        name: Name of the published data set.
        version: Its version, which AlgoPerf's loaders ask for.
        splits: Split name to its examples.
        data_dir: Folder for data sets; the files go to `<data_dir>/<name>/...`.
        description: What the data really is.
        citation: Where it comes from, in BibTeX or plain words.
        config: Name of the builder's configuration, where it has several.

    Returns:
        The folder with the files.

    Raises:
        DataError: If the data set is there already.
    """
    full_name = name if config is None else f'{name}/{config}'
    published = tfds.builder(full_name, data_dir=str(data_dir))
    if str(published.version) != version:
        raise DataError(
            f'The installed TensorFlow Datasets knows {full_name} in version '
            f"{published.version}; AlgoPerf's loaders ask for {version}. Install "
            'tensorflow-datasets==4.9.9.'
        )
    folder = pathlib.Path(published.data_dir)
    if folder.exists():
        raise DataError(
            f'{folder} exists already; delete it, or give --overwrite or another '
            '--data_dir.'
        )
    builder = tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version=version,
        config=config,
        features=published.info.features,
        split_datasets={
            split: list(enumerate(examples)) for split, examples in splits.items()
        },
        data_dir=str(data_dir),
        description=description,
        citation=citation,
    )
    return pathlib.Path(builder.data_dir)


def delete(folder: pathlib.Path) -> None:
    """Deletes what an earlier call wrote, if it did."""
    if folder.exists():
        shutil.rmtree(folder)
