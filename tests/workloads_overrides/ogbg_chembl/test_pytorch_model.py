import numpy as np
import pytest
import torch

from tests.workloads_overrides.ogbg_chembl.small_data import small_dataset
from workloads_overrides.ogbg_chembl.graph_batches import (
    BatchBudget,
    GraphsTuple,
    build_batch,
)
from workloads_overrides.ogbg_chembl.pytorch_model import GraphNetwork

DATASET = small_dataset()
IDS = np.arange(6)


def make_model(**changes):
    torch.manual_seed(0)
    arguments = {
        'num_outputs': 7,
        'latent_dim': 6,
        'hidden_dims': (5, 4),
        'num_message_passing_steps': 2,
    }
    return GraphNetwork(**(arguments | changes)).double().eval()


def as_tensors(graph):
    """Converts a batch's graph, features to double."""
    tensors = [None if f is None else torch.from_numpy(f) for f in graph]
    return GraphsTuple(*tensors)._replace(
        nodes=torch.from_numpy(graph.nodes).double(),
        edges=torch.from_numpy(graph.edges).double(),
    )


def graph_of(ids, n_node=100, n_edge=200, n_graph=10):
    budget = BatchBudget(n_node=n_node, n_edge=n_edge, n_graph=n_graph)
    return as_tensors(build_batch(DATASET, np.asarray(ids), budget)['inputs'])


def test_padding_does_not_change_real_graphs():
    model = make_model()
    little = model(graph_of(IDS))[: len(IDS)]
    more = model(graph_of(IDS, n_node=300, n_edge=900, n_graph=40))[: len(IDS)]
    torch.testing.assert_close(more, little)
    assert little.std(dim=0).min() > 1e-6  # The graphs are told apart.


def test_graphs_do_not_see_each_other():
    model = make_model()
    together = model(graph_of(IDS))
    for position, molecule in enumerate(IDS):
        alone = model(graph_of([molecule]))[0]
        torch.testing.assert_close(alone, together[position])


def test_order_of_nodes_and_edges_does_not_matter():
    model = make_model()
    graph = graph_of(IDS)
    generator = torch.Generator().manual_seed(1)
    new_nodes = within_graphs(graph.n_node, generator)
    new_edges = within_graphs(graph.n_edge, generator)
    new_name = torch.argsort(new_nodes)
    shuffled = graph._replace(
        nodes=graph.nodes[new_nodes],
        edges=graph.edges[new_edges],
        senders=new_name[graph.senders[new_edges]],
        receivers=new_name[graph.receivers[new_edges]],
    )
    assert not torch.equal(shuffled.nodes, graph.nodes)
    torch.testing.assert_close(model(shuffled), model(graph))


def within_graphs(counts, generator):
    """Returns a permutation that keeps rows inside their graph."""
    parts, start = [], 0
    for count in counts.tolist():
        parts.append(start + torch.randperm(count, generator=generator))
        start += count
    return torch.cat(parts)


def test_direction_of_edges_matters():
    # Sent and received edges are added up apart from each other.
    model = make_model()
    graph = graph_of(IDS)
    lower = torch.minimum(graph.senders, graph.receivers)
    higher = torch.maximum(graph.senders, graph.receivers)
    upwards = graph._replace(senders=lower, receivers=higher)
    downwards = graph._replace(senders=higher, receivers=lower)
    assert not torch.allclose(model(upwards), model(downwards))


def plain_forward(model, graph):
    """The network as loops over edges, nodes and graphs, without dropout."""

    def mlp(module, x):
        for index in range(2):
            x = getattr(module, f'dense_{index}')(x)
            x = torch.relu(getattr(module, f'norm_{index}')(x))
        return x

    node_graph, edge_graph = (
        [g for g, count in enumerate(counts.tolist()) for _ in range(count)]
        for counts in (graph.n_node, graph.n_edge)
    )
    nodes = list(model.node_embedder(graph.nodes))
    edges = list(model.edge_embedder(graph.edges))
    globals_ = [torch.zeros(7).double() for _ in graph.n_node]
    senders, receivers = graph.senders.tolist(), graph.receivers.tolist()
    for layer in model.graph_network:
        edges = [
            mlp(layer.update_edge_fn, torch.cat([e, nodes[s], nodes[r], globals_[g]]))
            for e, s, r, g in zip(edges, senders, receivers, edge_graph, strict=True)
        ]
        zero = torch.zeros(4).double()
        sent, received = [zero] * len(nodes), [zero] * len(nodes)
        for edge, s, r in zip(edges, senders, receivers, strict=True):
            sent[s] = sent[s] + edge
            received[r] = received[r] + edge
        nodes = [
            mlp(layer.update_node_fn, torch.cat([n, s, r, globals_[g]]))
            for n, s, r, g in zip(nodes, sent, received, node_graph, strict=True)
        ]
        node_sums, edge_sums = [zero] * len(globals_), [zero] * len(globals_)
        for node, g in zip(nodes, node_graph, strict=True):
            node_sums[g] = node_sums[g] + node
        for edge, g in zip(edges, edge_graph, strict=True):
            edge_sums[g] = edge_sums[g] + edge
        globals_ = [
            mlp(layer.update_global_fn, torch.cat(parts))
            for parts in zip(node_sums, edge_sums, globals_, strict=True)
        ]
    return model.decoder(torch.stack(globals_))


def test_agrees_with_loops():
    model = make_model()
    graph = graph_of(IDS, n_node=60, n_edge=80, n_graph=8)
    torch.testing.assert_close(model(graph), plain_forward(model, graph))


def test_gradients():
    model = make_model(hidden_dims=(3,), num_message_passing_steps=1)
    graph = graph_of([0, 1], n_node=20, n_edge=24, n_graph=4)

    def logits(nodes, weight):
        parameters = {'graph_network.0.update_edge_fn.dense_0.weight': weight}
        inputs = (graph._replace(nodes=nodes),)
        return torch.func.functional_call(model, parameters, inputs)

    weight = model.graph_network[0].update_edge_fn.dense_0.weight
    nodes = graph.nodes + 0.1 * torch.randn_like(graph.nodes)
    assert torch.autograd.gradcheck(
        logits, (nodes.requires_grad_(), weight.detach().clone().requires_grad_())
    )


def test_dropout_acts_in_training_only():
    model = make_model()
    graph = graph_of(IDS)
    clean = model(graph, dropout_rate=0.0)
    torch.testing.assert_close(model(graph, dropout_rate=0.5), clean)
    model.train()
    torch.testing.assert_close(model(graph, dropout_rate=0.0), clean)
    assert not torch.allclose(model(graph, dropout_rate=0.5), clean)
    torch.manual_seed(3)
    default = model(graph)
    torch.manual_seed(3)
    torch.testing.assert_close(model(graph, dropout_rate=0.1), default)


def test_initial_parameters():
    model = make_model(latent_dim=256, hidden_dims=(256,))
    weight = model.graph_network[1].update_node_fn.dense_0.weight
    std = 1024**-0.5
    assert weight.shape == (256, 1024)
    assert weight.std().item() == pytest.approx(std, rel=0.02)
    assert weight.abs().max() <= 2 * std / 0.8796 + 1e-6
    for name, parameter in model.named_parameters():
        if name.endswith('bias'):
            assert not parameter.any(), name


@pytest.mark.parametrize('name', ['gelu', 'silu'])
def test_other_activations(name):
    graph = graph_of(IDS)
    other = make_model(activation_fn_name=name)(graph)
    assert not torch.allclose(other, make_model()(graph))


def test_unknown_activation_is_named():
    with pytest.raises(ValueError, match='tanh'):
        make_model(activation_fn_name='tanh')
