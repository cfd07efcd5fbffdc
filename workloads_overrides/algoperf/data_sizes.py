"""How many examples the data on disk has."""

import pathlib

import tensorflow_datasets as tfds

_WRITER = 'python -m workloads_overrides.algoperf_data'


def tfds_size(name: str, split: str, data_dir: str) -> int:
    """Returns the number of examples in a split of a TFDS data set.

    Args:
        name: Name and version as AlgoPerf's loader asks for them.
        split: Name of the split.
        data_dir: The folder that the loader gets.

    Raises:
        FileNotFoundError: If the data set or the split is not there.
    """
    splits = tfds.builder(name, data_dir=data_dir).info.splits
    if split not in splits or not splits[split].num_examples:
        raise FileNotFoundError(
            f"--data_dir {data_dir} holds no split '{split}' of the data set {name}; "
            f"prepare it by AlgoPerf's documentation, or write a stand-in with "
            f'{_WRITER}.'
        )
    return int(splits[split].num_examples)


def folder_size(folder: pathlib.Path) -> int:
    """Returns the number of files in the folders of an image tree.

    Raises:
        FileNotFoundError: If there are none.
    """
    count = sum(1 for path in folder.glob('*/*') if path.is_file())
    if not count:
        raise FileNotFoundError(
            f"{folder} holds no <class>/<image> files; prepare them by AlgoPerf's "
            f'documentation, or write a stand-in with {_WRITER}.'
        )
    return count
