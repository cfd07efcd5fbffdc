"""A workload on graphs of AlgoPerf's contract that trains in milliseconds."""

from typing import NamedTuple

import torch
from torch import nn

from .tiny_workload import CLASSES, TinyWorkload

DIM, WIDTH, PADDING_NODES = 3, 6, 40


class Graphs(NamedTuple):
    """Graphs one after the other; the last is padding."""

    nodes: torch.Tensor
    edges: torch.Tensor
    senders: torch.Tensor
    receivers: torch.Tensor
    n_node: torch.Tensor
    n_edge: torch.Tensor


class TinyGraphModel(nn.Module):
    """One round of messages, then a sum over the nodes of each graph."""

    def __init__(self):
        super().__init__()
        self.edge = nn.Linear(3 * DIM, WIDTH)
        self.node = nn.Linear(DIM + WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, graphs, dropout_rate=0.0):
        del dropout_rate
        nodes = graphs.nodes
        ends = [nodes[graphs.senders], nodes[graphs.receivers]]
        messages = torch.tanh(self.edge(torch.cat([graphs.edges, *ends], -1)))
        received = messages.new_zeros(len(nodes), WIDTH)
        received = received.index_add(0, graphs.receivers, messages)
        nodes = torch.tanh(self.node(torch.cat([nodes, received], -1)))
        graph = torch.repeat_interleave(graphs.n_node)
        pooled = nodes.new_zeros(len(graphs.n_node), WIDTH).index_add(0, graph, nodes)
        return self.head(pooled)


class TinyGraphWorkload(TinyWorkload):
    """Classifies graphs of different sizes."""

    def batch(self, seed=0, first=0, last=8, ambiguous=False):
        """The graphs `first` to `last` of a step, padded.

        Numbers of graphs, nodes and edges are all different, or else the rows of
        nodes and edges cannot be told apart.
        """
        chosen = [_graph(seed, number) for number in range(first, last)]
        n_node = [len(nodes) for nodes, *_ in chosen]
        n_edge = [len(edges) for _, edges, *_ in chosen]
        n_node.append(PADDING_NODES)
        n_edge.append((1 if ambiguous else 2) * sum(n_node) - sum(n_edge))
        starts = torch.tensor([0, *n_node]).cumsum(0)
        nodes = [graph[0] for graph in chosen] + [torch.ones(PADDING_NODES, DIM)]
        edges = [graph[1] for graph in chosen] + [torch.ones(n_edge[-1], DIM)]
        ends = [graph[2] for graph in chosen]
        ends.append(torch.zeros(n_edge[-1], 2, dtype=torch.long))
        ends = torch.cat([e + start for e, start in zip(ends, starts, strict=False)])
        targets = torch.tensor([graph[3] for graph in chosen] + [0])
        return {
            'inputs': Graphs(
                torch.cat(nodes).to(self._dtype),
                torch.cat(edges).to(self._dtype),
                ends[:, 0],
                ends[:, 1],
                torch.tensor(n_node),
                torch.tensor(n_edge),
            ),
            'targets': targets,
            'weights': torch.tensor([1.0] * len(chosen) + [0.0], dtype=self._dtype),
        }

    def init_model_fn(self, rng):
        torch.manual_seed(int(rng[0]))
        return TinyGraphModel().to(self._dtype), None


def _graph(seed, number):
    """Nodes, edges, the ends of the edges, and the class."""
    generator = torch.Generator().manual_seed(1000 * seed + number)
    n_node, n_edge = torch.randint(2, 7, (2,), generator=generator).tolist()
    nodes = torch.randn(n_node, DIM, generator=generator)
    edges = torch.randn(n_edge, DIM, generator=generator)
    ends = torch.randint(n_node, (n_edge, 2), generator=generator)
    return nodes, edges, ends, number % CLASSES
