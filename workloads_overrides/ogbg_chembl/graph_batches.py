"""Batches of graphs with a fixed budget of nodes, edges and graphs.

AlgoPerf batches molecules dynamically, as the library jraph does: graphs are
added until the next one would not fit, and the rest of the budget is padding.
So every batch has the same shapes, which compiled code needs.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from workloads_overrides.ogbg_chembl.dataset import MoleculeDataset

Batch = dict[str, Any]


class GraphsTuple(NamedTuple):
    """Graphs one after the other; the fields are jraph's.

    Attributes:
        nodes: node features, `[n_nodes, 9]`.
        edges: edge features, `[n_edges, 3]`.
        receivers: index of the node that each edge points at, `[n_edges]`.
        senders: index of the node that each edge comes from, `[n_edges]`.
        globals: features of the graphs; None in a batch.
        n_node: nodes of each graph, `[n_graphs]`.
        n_edge: edges of each graph, `[n_graphs]`.
    """

    nodes: Any
    edges: Any
    receivers: Any
    senders: Any
    globals: Any
    n_node: Any
    n_edge: Any


@dataclasses.dataclass(frozen=True)
class BatchBudget:
    """The size of every batch, padding included."""

    n_node: int
    n_edge: int
    n_graph: int

    @classmethod
    def of(cls, dataset: MoleculeDataset, batch_size: int) -> 'BatchBudget':
        """Returns the budget for `batch_size` average graphs.

        One node and one graph are always padding, so that padding edges have a
        node to point at that no real graph owns.
        """
        if batch_size < 1:
            raise ValueError(f'batch size: expected at least 1, got {batch_size}.')
        return cls(
            n_node=dataset.average_nodes * batch_size + 1,
            n_edge=dataset.average_edges * batch_size,
            n_graph=batch_size + 1,
        )

    def rounded_up(self, multiple: int) -> 'BatchBudget':
        """Returns the next budget of which every size is a multiple of a number."""
        return BatchBudget(
            *(-(-size // multiple) * multiple for size in dataclasses.astuple(self))
        )


def _concatenated_ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns `start, start + 1, ...` of each range, one after the other."""
    ends = np.cumsum(lengths)
    return np.arange(lengths.sum()) + np.repeat(starts - (ends - lengths), lengths)


def _padded(rows: np.ndarray, length: int, fill: int = 0) -> np.ndarray:
    result = np.full((length, *rows.shape[1:]), fill, rows.dtype)
    result[: len(rows)] = rows
    return result


def _padded_counts(counts: np.ndarray, total: int, n_graph: int) -> np.ndarray:
    """Appends the padding graphs, of which the first holds all the padding."""
    result = _padded(counts, n_graph)
    result[len(counts)] = total - counts.sum()
    return result


def build_batch(
    dataset: MoleculeDataset, graph_ids: np.ndarray, budget: BatchBudget
) -> Batch:
    """Builds a padded batch.

    Args:
        dataset: where the graphs come from.
        graph_ids: the molecules of the batch; they must fit the budget.
        budget: the sizes of the batch.

    Returns:
        A dictionary of 'inputs', a `GraphsTuple` of numpy arrays; 'targets',
        float32 `[n_graph, n_tasks]`, 0 where there is no label; and 'weights',
        float32 of the same shape, 1 where there is a label.
    """
    n_node = dataset.node_counts[graph_ids]
    n_edge = dataset.edge_counts[graph_ids]
    node_ids = _concatenated_ranges(dataset.node_offsets[graph_ids], n_node)
    edge_ids = _concatenated_ranges(dataset.edge_offsets[graph_ids], n_edge)
    first_node = np.repeat(np.cumsum(n_node) - n_node, n_edge)
    padding_node = len(node_ids)
    graph = GraphsTuple(
        nodes=_padded(dataset.nodes[node_ids], budget.n_node),
        edges=_padded(dataset.edges[edge_ids], budget.n_edge),
        receivers=_padded(
            dataset.receivers[edge_ids] + first_node, budget.n_edge, padding_node
        ),
        senders=_padded(
            dataset.senders[edge_ids] + first_node, budget.n_edge, padding_node
        ),
        globals=None,
        n_node=_padded_counts(n_node, budget.n_node, budget.n_graph),
        n_edge=_padded_counts(n_edge, budget.n_edge, budget.n_graph),
    )
    labels = _padded(dataset.labels[graph_ids], budget.n_graph, fill=-1)
    return {
        'inputs': graph,
        'targets': (labels == 1).astype(np.float32),
        'weights': (labels >= 0).astype(np.float32),
    }


class _Order:
    """A sequence of graphs with running totals, to find where batches end."""

    def __init__(self, dataset: MoleculeDataset, graph_ids: np.ndarray) -> None:
        self.graph_ids = graph_ids
        self._nodes = np.concatenate([[0], np.cumsum(dataset.node_counts[graph_ids])])
        self._edges = np.concatenate([[0], np.cumsum(dataset.edge_counts[graph_ids])])

    def batch_end(self, start: int, budget: BatchBudget) -> int:
        """Returns the end of the longest batch from `start` that fits."""
        max_nodes = self._nodes[start] + budget.n_node - 1
        max_edges = self._edges[start] + budget.n_edge
        by_nodes = np.searchsorted(self._nodes, max_nodes, side='right') - 1
        by_edges = np.searchsorted(self._edges, max_edges, side='right') - 1
        return min(int(by_nodes), int(by_edges), start + budget.n_graph - 1)


def _check_each_fits(
    dataset: MoleculeDataset, graph_ids: np.ndarray, budget: BatchBudget
) -> None:
    if len(graph_ids) == 0:
        raise ValueError('There are no graphs to make batches of.')
    nodes = int(dataset.node_counts[graph_ids].max())
    edges = int(dataset.edge_counts[graph_ids].max())
    if nodes > budget.n_node - 1 or edges > budget.n_edge:
        raise ValueError(
            f'The largest molecule ({nodes} atoms, {edges} edges) does not fit into a '
            f'batch of {budget.n_node - 1} atoms and {budget.n_edge} edges: use a '
            'larger batch size.'
        )


def _permutation(graph_ids: np.ndarray, key: Sequence[int], epoch: int) -> np.ndarray:
    # Keys are unsigned 32-bit words; some sources hand them over as signed ones.
    words = np.atleast_1d(np.asarray(key)).astype(np.int64).ravel() % 2**32
    return np.random.default_rng([*words.tolist(), epoch]).permutation(graph_ids)


class TrainingQueue(Iterator[Batch]):
    """Endless batches, in a new order each epoch.

    The order depends only on the key and the epoch. A batch may hold the last
    graphs of one epoch and the first of the next.
    """

    def __init__(
        self,
        dataset: MoleculeDataset,
        graph_ids: np.ndarray,
        batch_size: int,
        key: Sequence[int],
        size_multiple: int = 1,
    ) -> None:
        """Starts at the first batch.

        Args:
            dataset: where the graphs come from.
            graph_ids: the molecules of an epoch.
            batch_size: number of average graphs in a batch.
            key: equal keys give equal orders.
            size_multiple: more padding makes every size of a batch a multiple of
                this; which graphs a batch holds does not depend on it.
        """
        self.budget = BatchBudget.of(dataset, batch_size)
        self._padded_budget = self.budget.rounded_up(size_multiple)
        _check_each_fits(dataset, graph_ids, self.budget)
        self._dataset = dataset
        self._graph_ids = graph_ids
        self._key = key
        self._epoch = 0
        self._position = 0
        self._order = _Order(dataset, _permutation(graph_ids, key, epoch=0))

    def _append_epoch(self) -> None:
        self._epoch += 1
        rest = self._order.graph_ids[self._position :]
        added = _permutation(self._graph_ids, self._key, self._epoch)
        self._order = _Order(self._dataset, np.concatenate([rest, added]))
        self._position = 0

    def next_graph_ids(self) -> np.ndarray:
        """Moves past one batch and returns its graphs."""
        end = self._order.batch_end(self._position, self.budget)
        while end == len(self._order.graph_ids):
            # The first graphs of the next epoch may still fit.
            self._append_epoch()
            end = self._order.batch_end(self._position, self.budget)
        graph_ids = self._order.graph_ids[self._position : end]
        self._position = end
        return graph_ids

    def __next__(self) -> Batch:
        return build_batch(self._dataset, self.next_graph_ids(), self._padded_budget)

    def skip(self, num_batches: int) -> None:
        """Passes over batches without building them."""
        for _ in range(num_batches):
            self.next_graph_ids()


class EvaluationQueue(Iterator[Batch]):
    """Batches of given graphs, each once and in order, again and again.

    Attributes:
        batches_per_pass: after how many batches every graph has come once.
    """

    def __init__(
        self,
        dataset: MoleculeDataset,
        graph_ids: np.ndarray,
        batch_size: int,
        size_multiple: int = 1,
    ) -> None:
        """Divides the graphs into batches; arguments as for `TrainingQueue`."""
        self.budget = BatchBudget.of(dataset, batch_size)
        self._padded_budget = self.budget.rounded_up(size_multiple)
        _check_each_fits(dataset, graph_ids, self.budget)
        self._dataset = dataset
        self._chunks: list[np.ndarray] = []
        order = _Order(dataset, graph_ids)
        start = 0
        while start < len(graph_ids):
            end = order.batch_end(start, self.budget)
            self._chunks.append(graph_ids[start:end])
            start = end
        self._position = 0

    @property
    def batches_per_pass(self) -> int:
        """How many batches hold all graphs."""
        return len(self._chunks)

    def __next__(self) -> Batch:
        graph_ids = self._chunks[self._position % len(self._chunks)]
        self._position += 1
        return build_batch(self._dataset, graph_ids, self._padded_budget)

    def skip(self, num_batches: int) -> None:
        """Passes over batches without building them."""
        self._position += num_batches
