"""The graph network of AlgoPerf's ogbg workload.

Modules carry AlgoPerf's names, so that parameters can be copied across.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from workloads_overrides.ogbg_chembl.featurise import (
    NUM_ATOM_FEATURES,
    NUM_BOND_FEATURES,
)
from workloads_overrides.ogbg_chembl.graph_batches import GraphsTuple
from workloads_overrides.ogbg_chembl.workload import DROPOUT_RATE

Activation = Callable[[torch.Tensor], torch.Tensor]

# Standard deviation of a unit normal cut off at two standard deviations.
_TRUNCATED_NORMAL_STD = 0.87962566103423978


def _gelu(x: torch.Tensor) -> torch.Tensor:
    return F.gelu(x, approximate='tanh')


_ACTIVATIONS: dict[str, Activation] = {'relu': F.relu, 'gelu': _gelu, 'silu': F.silu}


def initialise_linear(layer: nn.Linear) -> None:
    """Sets LeCun-normal weights, truncated at two deviations, and zero biases."""
    std = math.sqrt(1 / layer.in_features) / _TRUNCATED_NORMAL_STD
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    nn.init.zeros_(layer.bias)


class Mlp(nn.Module):
    """Per hidden layer: linear, layer norm, activation, dropout."""

    def __init__(
        self, in_dim: int, hidden_dims: Sequence[int], activation: Activation
    ) -> None:
        super().__init__()
        self._activation = activation
        self._num_layers = len(hidden_dims)
        for index, dim in enumerate(hidden_dims):
            self.add_module(f'dense_{index}', nn.Linear(in_dim, dim))
            self.add_module(f'norm_{index}', nn.LayerNorm(dim, eps=1e-6))
            in_dim = dim

    def forward(self, x: torch.Tensor, dropout_rate: float) -> torch.Tensor:
        """Maps `[n, in_dim]` to `[n, hidden_dims[-1]]`."""
        for index in range(self._num_layers):
            x = getattr(self, f'dense_{index}')(x)
            x = self._activation(getattr(self, f'norm_{index}')(x))
            x = F.dropout(x, dropout_rate, training=self.training)
        return x


class GraphIndices(NamedTuple):
    """Which rows belong together; the same in every layer.

    Attributes:
        senders: node that each edge comes from, `[n_edges]`.
        receivers: node that each edge points at, `[n_edges]`.
        node_graph: graph of each node, `[n_nodes]`.
        edge_graph: graph of each edge, `[n_edges]`.
    """

    senders: torch.Tensor
    receivers: torch.Tensor
    node_graph: torch.Tensor
    edge_graph: torch.Tensor

    @classmethod
    def of(cls, graph: GraphsTuple) -> 'GraphIndices':
        """Works out the graph of each node and edge."""
        ids = torch.arange(len(graph.n_node), device=graph.n_node.device)
        # A known output size spares a GPU the wait for the sum of the counts.
        return cls(
            senders=graph.senders,
            receivers=graph.receivers,
            node_graph=torch.repeat_interleave(
                ids, graph.n_node, output_size=len(graph.nodes)
            ),
            edge_graph=torch.repeat_interleave(
                ids, graph.n_edge, output_size=len(graph.edges)
            ),
        )


def _contiguous(gradient: torch.Tensor | None) -> torch.Tensor | None:
    return None if gradient is None else gradient.contiguous()


def _take_rows(rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Picks rows: `[n, d]` to `[len(index), d]`."""
    taken = rows.index_select(0, index)
    if taken.requires_grad:
        # The gradient comes as columns of a wider matrix, and adding up such rows
        # is several times slower on a CPU than copying them first.
        taken.register_hook(_contiguous)
    return taken


def _sum_rows(rows: torch.Tensor, index: torch.Tensor, size: int) -> torch.Tensor:
    """Adds up the rows with the same index: `[n, d]` to `[size, d]`."""
    return rows.new_zeros(size, rows.shape[1]).index_add_(0, index, rows)


class GraphNetworkLayer(nn.Module):
    """Updates edges, then nodes, then globals (Battaglia et al., 2018).

    A node sees the sum of the edges it sends and, apart from it, the sum of those
    it receives.
    """

    def __init__(
        self,
        node_dim: int,
        edge_dim: int,
        global_dim: int,
        hidden_dims: Sequence[int],
        activation: Activation,
    ) -> None:
        super().__init__()
        out = hidden_dims[-1]
        edge_in = edge_dim + 2 * node_dim + global_dim
        self.update_edge_fn = Mlp(edge_in, hidden_dims, activation)
        node_in = node_dim + 2 * out + global_dim
        self.update_node_fn = Mlp(node_in, hidden_dims, activation)
        self.update_global_fn = Mlp(2 * out + global_dim, hidden_dims, activation)

    def forward(
        self,
        nodes: torch.Tensor,
        edges: torch.Tensor,
        globals_: torch.Tensor,
        indices: GraphIndices,
        dropout_rate: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns updated nodes, edges and globals."""
        n_nodes, n_graphs = len(nodes), len(globals_)
        edge_inputs = (
            edges,
            _take_rows(nodes, indices.senders),
            _take_rows(nodes, indices.receivers),
            _take_rows(globals_, indices.edge_graph),
        )
        edges = self.update_edge_fn(torch.cat(edge_inputs, dim=1), dropout_rate)
        node_inputs = (
            nodes,
            _sum_rows(edges, indices.senders, n_nodes),
            _sum_rows(edges, indices.receivers, n_nodes),
            _take_rows(globals_, indices.node_graph),
        )
        nodes = self.update_node_fn(torch.cat(node_inputs, dim=1), dropout_rate)
        global_inputs = (
            _sum_rows(nodes, indices.node_graph, n_graphs),
            _sum_rows(edges, indices.edge_graph, n_graphs),
            globals_,
        )
        globals_ = self.update_global_fn(torch.cat(global_inputs, dim=1), dropout_rate)
        return nodes, edges, globals_


class GraphNetwork(nn.Module):
    """Predicts the tasks of each graph from the globals of the last layer."""

    def __init__(
        self,
        num_outputs: int,
        latent_dim: int,
        hidden_dims: Sequence[int],
        num_message_passing_steps: int,
        activation_fn_name: str = 'relu',
    ) -> None:
        super().__init__()
        if activation_fn_name not in _ACTIVATIONS:
            raise ValueError(
                f'Unknown activation {activation_fn_name!r}: expected one of '
                f'{", ".join(_ACTIVATIONS)}.'
            )
        activation = _ACTIVATIONS[activation_fn_name]
        self.num_outputs = num_outputs
        self.node_embedder = nn.Linear(NUM_ATOM_FEATURES, latent_dim)
        self.edge_embedder = nn.Linear(NUM_BOND_FEATURES, latent_dim)
        out = hidden_dims[-1]
        self.graph_network = nn.ModuleList(
            # The first layer sees embedded rows and initial globals, the others
            # what the layer before puts out.
            GraphNetworkLayer(
                latent_dim, latent_dim, num_outputs, hidden_dims, activation
            )
            if step == 0
            else GraphNetworkLayer(out, out, out, hidden_dims, activation)
            for step in range(num_message_passing_steps)
        )
        self.decoder = nn.Linear(out, num_outputs)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                initialise_linear(module)

    def forward(
        self, graph: GraphsTuple, dropout_rate: float = DROPOUT_RATE
    ) -> torch.Tensor:
        """Returns logits `[n_graphs, num_outputs]`."""
        indices = GraphIndices.of(graph)
        nodes = self.node_embedder(graph.nodes)
        edges = self.edge_embedder(graph.edges)
        globals_ = nodes.new_zeros(len(graph.n_node), self.num_outputs)
        for layer in self.graph_network:
            nodes, edges, globals_ = layer(
                nodes, edges, globals_, indices, dropout_rate
            )
        return self.decoder(globals_)
