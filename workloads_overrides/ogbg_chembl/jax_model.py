"""The graph network of AlgoPerf's ogbg workload in Flax.

Modules carry the names that AlgoPerf's have, so that parameters can be copied across:
the dense layers and layer norms of all update functions count through in the order
edges, nodes, globals, step after step.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from workloads_overrides.flax_dropout import Dropout
from workloads_overrides.ogbg_chembl.graph_batches import GraphsTuple
from workloads_overrides.ogbg_chembl.workload import DROPOUT_RATE

Activation = Callable[[jax.Array], jax.Array]

_ACTIVATIONS: dict[str, Activation] = {
    'relu': nn.relu,
    'gelu': nn.gelu,
    'silu': nn.silu,
}


class GraphIndices(NamedTuple):
    """Which rows belong together; the same in every layer.

    Attributes:
        senders: node that each edge comes from, `[n_edges]`.
        receivers: node that each edge points at, `[n_edges]`.
        node_graph: graph of each node, ascending, `[n_nodes]`.
        edge_graph: graph of each edge, ascending, `[n_edges]`.
    """

    senders: jax.Array
    receivers: jax.Array
    node_graph: jax.Array
    edge_graph: jax.Array

    @classmethod
    def of(cls, graph: GraphsTuple) -> 'GraphIndices':
        """Works out the graph of each node and edge."""
        ids = jnp.arange(len(graph.n_node))
        return cls(
            senders=graph.senders,
            receivers=graph.receivers,
            # Compiled code has to know the length, which the counts add up to.
            node_graph=jnp.repeat(
                ids, graph.n_node, total_repeat_length=len(graph.nodes)
            ),
            edge_graph=jnp.repeat(
                ids, graph.n_edge, total_repeat_length=len(graph.edges)
            ),
        )


def _sum_by_graph(rows: jax.Array, index: jax.Array, size: int) -> jax.Array:
    return jax.ops.segment_sum(rows, index, size, indices_are_sorted=True)


class GraphNetwork(nn.Module):
    """Predicts the tasks of each graph from the globals of the last layer.

    Attributes:
        num_outputs: number of tasks.
        latent_dim: width of the embedded nodes and edges.
        hidden_dims: widths of the layers of every update function.
        num_message_passing_steps: number of layers.
        activation_fn_name: 'relu', 'gelu' or 'silu'.
    """

    num_outputs: int
    latent_dim: int
    hidden_dims: Sequence[int]
    num_message_passing_steps: int
    activation_fn_name: str = 'relu'

    @nn.compact
    def __call__(
        self, graph: GraphsTuple, train: bool, dropout_rate: Any = DROPOUT_RATE
    ) -> jax.Array:
        """Returns logits `[n_graphs, num_outputs]`."""
        if self.activation_fn_name not in _ACTIVATIONS:
            raise ValueError(
                f'Unknown activation {self.activation_fn_name!r}: expected one of '
                f'{", ".join(_ACTIVATIONS)}.'
            )
        activation = _ACTIVATIONS[self.activation_fn_name]

        def update(*parts: jax.Array) -> jax.Array:
            """Per hidden layer: dense, layer norm, activation, dropout."""
            x = jnp.concatenate(parts, axis=1)
            for dim in self.hidden_dims:
                x = activation(nn.LayerNorm()(nn.Dense(dim)(x)))
                x = Dropout()(x, dropout_rate, train)
            return x

        indices = GraphIndices.of(graph)
        n_nodes, n_graphs = len(graph.nodes), len(graph.n_node)
        nodes = nn.Dense(self.latent_dim, name='node_embedding')(graph.nodes)
        edges = nn.Dense(self.latent_dim, name='edge_embedding')(graph.edges)
        globals_ = jnp.zeros((n_graphs, self.num_outputs), nodes.dtype)
        for _ in range(self.num_message_passing_steps):
            edges = update(
                edges,
                nodes[indices.senders],
                nodes[indices.receivers],
                globals_[indices.edge_graph],
            )
            nodes = update(
                nodes,
                jax.ops.segment_sum(edges, indices.senders, n_nodes),
                jax.ops.segment_sum(edges, indices.receivers, n_nodes),
                globals_[indices.node_graph],
            )
            globals_ = update(
                _sum_by_graph(nodes, indices.node_graph, n_graphs),
                _sum_by_graph(edges, indices.edge_graph, n_graphs),
                globals_,
            )
        return nn.Dense(self.num_outputs)(globals_)
