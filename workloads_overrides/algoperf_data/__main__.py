r"""Writes data that AlgoPerf's own loaders read, without any download.

Example::

    python -m workloads_overrides.algoperf_data --dataset=ogbg \
        --data_dir=$HOME/data --num_train=300 --num_validation=100 --num_test=100

It needs the extra `algoperf-data`.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags

from workloads_overrides.algoperf_data import images, molecules
from workloads_overrides.algoperf_data.errors import DataError

_DATASET = flags.DEFINE_enum(
    'dataset',
    None,
    ['ogbg', 'imagenet'],
    'What to write: molecules as ogbg_molpcba, or images as ImageNet.',
    required=True,
)
_DATA_DIR = flags.DEFINE_string(
    'data_dir',
    None,
    "AlgoPerf's data folder; the files go to ogbg/, or to imagenet/jax/ and "
    'imagenet/pytorch/, below it.',
    required=True,
)
_NUM_EXAMPLES = {
    split: flags.DEFINE_integer(
        f'num_{split}', None, f'Size of the {split} split; all there are if not set.'
    )
    for split in ('train', 'validation', 'test')
}
_IMAGE_SIZE = flags.DEFINE_integer(
    'image_size', 64, 'Height and width of the images in pixels.'
)
_OVERWRITE = flags.DEFINE_boolean('overwrite', False, 'Replace what is there already.')


def main(argv: Sequence[str]) -> None:
    """Writes the data set that the flags describe and prints the folders."""
    if len(argv) > 1:
        raise app.UsageError(f'Not a flag: {argv[1:]}')
    data_dir = pathlib.Path(_DATA_DIR.value).expanduser().absolute()
    num_examples = {split: flag.value for split, flag in _NUM_EXAMPLES.items()}
    try:
        if _DATASET.value == 'ogbg':
            written = molecules.write(data_dir, num_examples, _OVERWRITE.value)
        else:
            written = images.write(
                data_dir, num_examples, _IMAGE_SIZE.value, _OVERWRITE.value
            )
    except DataError as error:
        sys.exit(f'Error: {error}')
    for folder in written:
        print(f'Written: {folder}')


if __name__ == '__main__':
    app.run(main)
