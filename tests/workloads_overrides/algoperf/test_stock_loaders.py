"""AlgoPerf's own loaders read what the writers wrote."""

import itertools

import numpy as np
import pytest

from tests.workloads_overrides.algoperf.conftest import (
    NUM_GRAPHS,
    NUM_IMAGES,
    REASON,
)
from workloads_overrides.algoperf_data.selection import spread
from workloads_overrides.imagenet_vit_fashion_mnist import dataset as fashion_mnist
from workloads_overrides.ogbg_chembl.dataset import load_dataset

pytest.importorskip('algoperf', reason=REASON)
pytestmark = pytest.mark.algoperf


def test_graphs_come_out_of_the_stock_pipeline_as_they_went_in(data_dir):
    from algoperf.workloads.ogbg import input_pipeline

    dataset = load_dataset()
    chosen = dataset.indices('validation')
    chosen = chosen[spread(len(chosen), NUM_GRAPHS['validation'], 'validation')]

    def fingerprint(nodes, edges, senders, receivers, labels):
        pairs = sorted(zip(senders.tolist(), receivers.tolist(), strict=True))
        values = tuple(np.nan_to_num(labels, nan=-1.0).tolist())
        return nodes.tobytes(), sorted(edges.tolist()), pairs, values

    expected = []
    for graph in chosen:
        nodes = slice(*dataset.node_offsets[graph : graph + 2])
        edges = slice(*dataset.edge_offsets[graph : graph + 2])
        expected.append(
            fingerprint(
                dataset.nodes[nodes],
                dataset.edges[edges],
                dataset.senders[edges],
                dataset.receivers[edges],
                dataset.labels[graph].astype(np.float32),
            )
        )

    found = []
    for batch in input_pipeline.get_dataset_iter(
        'validation', None, str(data_dir / 'ogbg'), 16
    ):
        graph = batch['inputs']
        node, edge = 0, 0
        # The last graph of a batch holds the padding.
        real = len(graph.n_node) - 1
        for index in range(real):
            n_node, n_edge = int(graph.n_node[index]), int(graph.n_edge[index])
            weights = batch['weights'][index]
            if n_node and weights.any():
                labels = np.where(weights > 0, batch['targets'][index], np.nan)
                found.append(
                    fingerprint(
                        graph.nodes[node : node + n_node],
                        graph.edges[edge : edge + n_edge],
                        graph.senders[edge : edge + n_edge] - node,
                        graph.receivers[edge : edge + n_edge] - node,
                        labels,
                    )
                )
            node, edge = node + n_node, edge + n_edge
    assert len(found) == NUM_GRAPHS['validation']
    assert sorted(found) == sorted(expected)


@pytest.mark.parametrize('split', ['train', 'validation'])
def test_both_image_formats_hold_the_same_images_and_labels(data_dir, split):
    import tensorflow_datasets as tfds
    from torchvision.datasets.folder import ImageFolder

    tree = ImageFolder(
        data_dir / 'imagenet/pytorch' / {'train': 'train', 'validation': 'val'}[split]
    )
    from_tree = sorted((label, np.asarray(image).tobytes()) for image, label in tree)
    records = tfds.load(
        'imagenet2012:5.1.0',
        split=split,
        data_dir=data_dir / 'imagenet/jax',
        decoders={'image': tfds.decode.SkipDecoding()},
    ).as_numpy_iterator()
    import io

    from PIL import Image

    from_tfds = sorted(
        (
            int(record['label']),
            np.asarray(Image.open(io.BytesIO(record['image']))).tobytes(),
        )
        for record in records
    )
    assert len(from_tree) == NUM_IMAGES[split]
    assert from_tree == from_tfds
    source = fashion_mnist.load()[split].labels
    kept = source[spread(len(source), NUM_IMAGES[split], split)]
    assert sorted(label for label, _ in from_tree) == sorted(kept.tolist())


def test_the_test_images_come_through_the_loader_of_imagenet_v2(data_dir):
    from algoperf.workloads.imagenet_resnet import imagenet_v2

    batches = imagenet_v2.get_imagenet_v2_iter(
        str(data_dir / 'imagenet/pytorch'),
        NUM_IMAGES['test'],
        mean_rgb=(0.0, 0.0, 0.0),
        stddev_rgb=(1.0, 1.0, 1.0),
        image_size=32,
        resize_size=32,
        framework='jax',
    )
    (batch,) = itertools.islice(batches, 1)
    assert batch['inputs'].shape == (NUM_IMAGES['test'], 32, 32, 3)
    source = fashion_mnist.load()['test'].labels
    kept = source[spread(len(source), NUM_IMAGES['test'], 'test')]
    assert sorted(batch['targets'].tolist()) == sorted(kept.tolist())
