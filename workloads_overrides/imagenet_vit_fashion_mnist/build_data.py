"""Builds the committed subset of Fashion-MNIST.

Usage: python -m workloads_overrides.imagenet_vit_fashion_mnist.build_data
"""

import pathlib
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


def main(argv: Sequence[str]) -> None:
    """Checks the sources, cuts the subset, checks it and writes it."""
    if len(argv) > 1:
        raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
    source, output = pathlib.Path(_SOURCE.value), pathlib.Path(_OUTPUT.value)
    subset.check_sources(source)
    splits = subset.select(dataset.load_full_set(source))
    dataset.check_content(splits, source)
    subset.write(splits, output)
    counts = ', '.join(f'{len(splits[name].labels)} {name}' for name in splits)
    print(f'{output}: {output.stat().st_size} bytes, {counts} images')


if __name__ == '__main__':
    app.run(main)
