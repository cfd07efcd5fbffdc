import io

import numpy as np
import pytest

from workloads_overrides.algoperf_data import images, molecules
from workloads_overrides.algoperf_data.errors import DataError
from workloads_overrides.ogbg_chembl.dataset import load_dataset

ALL = {'train': 12_000, 'validation': None, 'test': None}


def test_a_molecule_has_each_bond_once_and_nan_for_what_was_not_measured():
    dataset = load_dataset()
    graph = int(dataset.indices('test')[7])
    example = molecules.example(dataset, graph)
    nodes, edges = dataset.node_counts[graph], dataset.edge_counts[graph]
    assert example['num_nodes'].tolist() == [nodes]
    assert example['num_edges'].tolist() == [edges // 2]
    assert example['node_feat'].shape == (nodes, 9)
    assert example['edge_feat'].shape == (edges // 2, 3)
    bonds = {tuple(sorted(pair)) for pair in example['edge_index'].tolist()}
    assert len(bonds) == edges // 2
    assert example['edge_index'].max() < nodes
    labels = dataset.labels[graph]
    np.testing.assert_array_equal(np.isnan(example['labels']), labels == -1)
    np.testing.assert_array_equal(
        example['labels'][labels >= 0], labels[labels >= 0].astype(np.float32)
    )
    assert {name: array.dtype.name for name, array in example.items()} == {
        'node_feat': 'float32',
        'edge_feat': 'float32',
        'edge_index': 'int64',
        'num_nodes': 'int64',
        'num_edges': 'int64',
        'labels': 'float32',
    }


def test_a_jpeg_is_square_in_colour_and_shows_the_image():
    pil_image = pytest.importorskip('PIL.Image')
    pixels = np.zeros((28, 28), np.uint8)
    pixels[:14] = 200
    decoded = pil_image.open(io.BytesIO(images.encode(pixels, 56)))
    assert (decoded.format, decoded.mode, decoded.size) == ('JPEG', 'RGB', (56, 56))
    array = np.asarray(decoded).astype(int)
    assert abs(array[:20] - 200).max() < 8
    assert array[36:].max() < 8


@pytest.mark.parametrize(
    ('numbers', 'image_size', 'message'),
    [
        (ALL, 32, '--num_train is 12000'),
        ({**ALL, 'train': 30}, 8, '--image_size is 8; it must be at least 16'),
        ({**ALL, 'train': 3}, 32, 'none of these images is of class'),
    ],
)
def test_mistakes_are_found_before_anything_is_written(
    tmp_path, numbers, image_size, message
):
    with pytest.raises(DataError, match=message):
        images.write(tmp_path, numbers, image_size)
    assert not list(tmp_path.iterdir())


def test_too_many_molecules_are_an_error_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match='--num_validation is 9999'):
        molecules.write(tmp_path, {'train': 3, 'validation': 9999, 'test': 3})
    assert not list(tmp_path.iterdir())
