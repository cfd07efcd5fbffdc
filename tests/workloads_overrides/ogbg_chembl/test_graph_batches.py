import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workloads_overrides.ogbg_chembl.small_data import small_dataset
from workloads_overrides.ogbg_chembl.dataset import load_dataset
from workloads_overrides.ogbg_chembl.graph_batches import (
    BatchBudget,
    EvaluationQueue,
    GraphsTuple,
    TrainingQueue,
    build_batch,
)

SMALL = small_dataset()
TRAIN = SMALL.indices('train')

batch_sizes = st.integers(4, 50)
keys = st.lists(st.integers(-(2**31), 2**32 - 1), min_size=2, max_size=2)


def assert_same(left, right):
    for name in ('targets', 'weights'):
        np.testing.assert_array_equal(left[name], right[name])
    for field in ('nodes', 'edges', 'senders', 'receivers', 'n_node', 'n_edge'):
        np.testing.assert_array_equal(
            getattr(left['inputs'], field), getattr(right['inputs'], field)
        )


def test_fields_are_those_of_jraph():
    assert GraphsTuple._fields == (
        'nodes',
        'edges',
        'receivers',
        'senders',
        'globals',
        'n_node',
        'n_edge',
    )


def test_budget_is_average_graphs_and_one_padding_node():
    budget = BatchBudget.of(load_dataset(), 256)
    assert budget == BatchBudget(n_node=31 * 256 + 1, n_edge=68 * 256, n_graph=257)


@settings(max_examples=40, deadline=None)
@given(batch_sizes, keys, st.integers(1, 3))
def test_epochs_neither_lose_nor_repeat_graphs(batch_size, key, num_epochs):
    queue = TrainingQueue(SMALL, TRAIN, batch_size, key)
    seen = []
    while len(seen) < num_epochs * len(TRAIN):
        seen.extend(queue.next_graph_ids().tolist())
    for epoch in range(num_epochs):
        part = seen[epoch * len(TRAIN) : (epoch + 1) * len(TRAIN)]
        assert sorted(part) == TRAIN.tolist()


@settings(max_examples=40, deadline=None)
@given(batch_sizes, keys)
def test_batches_end_only_where_the_next_graph_does_not_fit(batch_size, key):
    queue = TrainingQueue(SMALL, TRAIN, batch_size, key)
    budget = queue.budget
    batches = [queue.next_graph_ids() for _ in range(12)]
    for batch, following in itertools.pairwise(batches):
        nodes = SMALL.node_counts[batch].sum()
        edges = SMALL.edge_counts[batch].sum()
        assert 0 < len(batch) <= batch_size
        assert nodes <= budget.n_node - 1
        assert edges <= budget.n_edge
        assert (
            len(batch) == batch_size
            or nodes + SMALL.node_counts[following[0]] > budget.n_node - 1
            or edges + SMALL.edge_counts[following[0]] > budget.n_edge
        )


@settings(max_examples=40, deadline=None)
@given(batch_sizes, keys)
def test_batch_holds_its_graphs_then_padding(batch_size, key):
    queue = TrainingQueue(SMALL, TRAIN, batch_size, key)
    ids = queue.next_graph_ids()
    budget = queue.budget
    batch = build_batch(SMALL, ids, budget)
    graph = batch['inputs']
    count = len(ids)
    nodes, edges = SMALL.node_counts[ids].sum(), SMALL.edge_counts[ids].sum()

    assert graph.nodes.shape == (budget.n_node, 9)
    assert graph.edges.shape == (budget.n_edge, 3)
    assert graph.nodes.dtype == graph.edges.dtype == np.float32
    np.testing.assert_array_equal(graph.n_node[:count], SMALL.node_counts[ids])
    np.testing.assert_array_equal(graph.n_edge[:count], SMALL.edge_counts[ids])
    assert graph.n_node[count] == budget.n_node - nodes >= 1
    assert graph.n_edge[count] == budget.n_edge - edges
    assert not graph.n_node[count + 1 :].any()
    assert not graph.n_edge[count + 1 :].any()
    assert len(graph.n_node) == len(graph.n_edge) == budget.n_graph

    assert not graph.nodes[nodes:].any()
    assert not graph.edges[edges:].any()
    np.testing.assert_array_equal(graph.senders[edges:], nodes)
    np.testing.assert_array_equal(graph.receivers[edges:], nodes)

    # Feature 0 is the number of the molecule, so it tells whose rows these are.
    owner = np.repeat(ids, SMALL.node_counts[ids])
    edge_owner = np.repeat(ids, SMALL.edge_counts[ids])
    np.testing.assert_array_equal(graph.nodes[:nodes, 0], owner)
    np.testing.assert_array_equal(graph.edges[:edges, 0], edge_owner)
    np.testing.assert_array_equal(owner[graph.senders[:edges]], edge_owner)
    np.testing.assert_array_equal(owner[graph.receivers[:edges]], edge_owner)

    labels = SMALL.labels[ids]
    np.testing.assert_array_equal(batch['weights'][:count], labels >= 0)
    np.testing.assert_array_equal(batch['targets'][:count], labels == 1)
    assert not batch['weights'][count:].any()
    assert not batch['targets'][count:].any()
    assert batch['weights'].shape == (budget.n_graph, 128)
    assert batch['weights'].dtype == batch['targets'].dtype == np.float32


def test_edges_of_a_batch_are_bidirectional():
    queue = TrainingQueue(SMALL, TRAIN, 16, (1, 2))
    graph = next(queue)['inputs']
    forward = np.column_stack([graph.senders, graph.receivers, graph.edges])
    backward = np.column_stack([graph.receivers, graph.senders, graph.edges])
    assert sorted(forward.tolist()) == sorted(backward.tolist())
    assert np.any(graph.senders != graph.receivers)


@settings(max_examples=40, deadline=None)
@given(batch_sizes, keys, st.integers(0, 20), st.integers(0, 20))
def test_skipping_is_passing_over(batch_size, key, first, second):
    # 20 batches of at least 4 graphs pass the end of an epoch of 32.
    walked = TrainingQueue(SMALL, TRAIN, batch_size, key)
    skipped = TrainingQueue(SMALL, TRAIN, batch_size, key)
    for _ in range(first + second):
        next(walked)
    skipped.skip(first)
    skipped.skip(second)
    assert_same(next(skipped), next(walked))


def test_skipping_into_a_batch_of_two_epochs():
    batch_size = 12
    walked = TrainingQueue(SMALL, TRAIN, batch_size, (3, 4))
    ends = np.cumsum([len(walked.next_graph_ids()) for _ in range(8)])
    crossing = int(np.searchsorted(ends, len(TRAIN)))
    assert ends[crossing] > len(TRAIN)
    walked = TrainingQueue(SMALL, TRAIN, batch_size, (3, 4))
    for _ in range(crossing):
        next(walked)
    skipped = TrainingQueue(SMALL, TRAIN, batch_size, (3, 4))
    skipped.skip(crossing)
    for _ in range(2):
        assert_same(next(skipped), next(walked))


def test_order_depends_on_key_and_epoch():
    def epochs(key):
        queue = TrainingQueue(SMALL, TRAIN, 16, key)
        seen = []
        while len(seen) < 2 * len(TRAIN):
            seen.extend(queue.next_graph_ids().tolist())
        return seen[: len(TRAIN)], seen[len(TRAIN) : 2 * len(TRAIN)]

    first, second = epochs((5, 6))
    assert (first, second) == epochs(np.array([5, 6], np.int32))
    assert first != second
    assert first != epochs((5, 7))[0]
    assert first != TRAIN.tolist()


def test_evaluation_passes_are_in_order_and_repeat():
    ids = SMALL.indices('train')
    queue = EvaluationQueue(SMALL, ids, 16)
    assert queue.batches_per_pass > 1
    for _ in range(2):
        seen = []
        for _ in range(queue.batches_per_pass):
            graph = next(queue)['inputs']
            # The last graph with nodes is padding; feature 0 names the others.
            num_real = np.flatnonzero(graph.n_node)[-1]
            first_nodes = np.cumsum(graph.n_node) - graph.n_node
            names = graph.nodes[first_nodes[:num_real], 0]
            seen.extend(names.astype(int).tolist())
        assert seen == ids.tolist()


def test_evaluation_skip():
    walked = EvaluationQueue(SMALL, TRAIN, 16)
    skipped = EvaluationQueue(SMALL, TRAIN, 16)
    for _ in range(5):
        next(walked)
    skipped.skip(5)
    assert_same(next(skipped), next(walked))


def test_molecule_larger_than_a_batch_is_an_error():
    dataset = load_dataset()
    with pytest.raises(ValueError, match=r'316 atoms.*larger batch size'):
        EvaluationQueue(dataset, dataset.indices('test'), 8)
    with pytest.raises(ValueError, match=r'244 atoms.*larger batch size'):
        TrainingQueue(dataset, dataset.indices('train'), 3, (0, 0))
    with pytest.raises(ValueError, match='at least 1'):
        BatchBudget.of(dataset, 0)


def test_no_graphs_is_an_error():
    with pytest.raises(ValueError, match='no graphs'):
        EvaluationQueue(SMALL, TRAIN[:0], 16)


def test_batches_of_real_molecules_are_full_and_quick():
    dataset = load_dataset()
    queue = TrainingQueue(dataset, dataset.indices('train'), 256, (0, 1))
    next(queue)
    times, sizes = [], []
    for _ in range(20):
        start = time.perf_counter()
        batch = next(queue)
        times.append(time.perf_counter() - start)
        sizes.append(np.flatnonzero(batch['inputs'].n_node)[-1])
    assert min(times) < 0.005
    assert 240 < np.mean(sizes) <= 256
