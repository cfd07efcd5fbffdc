"""Builds the committed subset of Fashion-MNIST.

Usage: python -m workloads_overrides.imagenet_vit_fashion_mnist.build_data
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags

from workloads_overrides.imagenet_vit_fashion_mnist import dataset, subset

_SOURCE = flags.DEFINE_string(
    'source',
    '/usr/share/datasets/fashion-mnist',
    'Folder of the four published idx files; the default is where the Debian '
    'package dataset-fashion-mnist installs them.',
)
_OUTPUT = flags.DEFINE_string(
    'output', str(dataset.SUBSET_PATH), 'The npz file to write.'
)


def build(source: pathlib.Path, output: pathlib.Path) -> None:
    """Checks the sources, cuts the subset, checks it and writes it.

    Args:
        source: Folder of the four published idx files.
        output: The npz file to write.

    Raises:
        OSError: If a source is missing or the output cannot be written.
        ValueError: If a source is not the published file.
    """
    subset.check_sources(source)
    splits = subset.select(dataset.load_full_set(source))
    dataset.check_content(splits, source)
    subset.write(splits, output)
    counts = ', '.join(f'{len(splits[name].labels)} {name}' for name in splits)
    print(f'{output}: {output.stat().st_size} bytes, {counts} images')


def main(argv: Sequence[str]) -> None:
    """Runs `build` on the flags."""
    if len(argv) > 1:
        raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
    try:
        build(pathlib.Path(_SOURCE.value), pathlib.Path(_OUTPUT.value))
    except (OSError, ValueError) as error:
        sys.exit(f'Error: {error}')


if __name__ == '__main__':
    app.run(main)
