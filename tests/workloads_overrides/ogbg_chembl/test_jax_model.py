import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.workloads_overrides.double_precision import double_precision
from tests.workloads_overrides.ogbg_chembl.small_data import small_dataset
from workloads_overrides import flax_parameters
from workloads_overrides.ogbg_chembl import jax_model, pytorch_model
from workloads_overrides.ogbg_chembl.graph_batches import (
    BatchBudget,
    GraphsTuple,
    build_batch,
)

DATASET = small_dataset()
SIZES = {'num_outputs': 7, 'latent_dim': 6, 'hidden_dims': (5,)}
STEPS = 2


def graph_of(ids, n_node=100, n_edge=200, n_graph=10):
    budget = BatchBudget(n_node=n_node, n_edge=n_edge, n_graph=n_graph)
    graph = build_batch(DATASET, np.asarray(ids), budget)['inputs']
    return graph._replace(
        nodes=graph.nodes.astype(np.float64), edges=graph.edges.astype(np.float64)
    )


GRAPH = graph_of(range(6))


def torch_model(activation='relu', **changes):
    sizes = {**SIZES, **changes}
    model = pytorch_model.GraphNetwork(
        num_message_passing_steps=STEPS, activation_fn_name=activation, **sizes
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            # Biases and scales included, which a new model leaves at 0 and 1.
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def flax_model(activation='relu', **changes):
    sizes = {**SIZES, **changes}
    return jax_model.GraphNetwork(
        num_message_passing_steps=STEPS, activation_fn_name=activation, **sizes
    )


def as_tensors(graph):
    return GraphsTuple(*(None if x is None else torch.from_numpy(x) for x in graph))


every_depth = pytest.mark.parametrize('hidden_dims', [(5,), (5, 4)])


@every_depth
@pytest.mark.parametrize('activation', ['relu', 'gelu', 'silu'])
def test_logits_and_gradients_are_those_of_pytorch(activation, hidden_dims):
    model = torch_model(activation, hidden_dims=hidden_dims)
    in_flax = flax_model(activation, hidden_dims=hidden_dims)
    cotangent = np.random.default_rng(0).standard_normal((10, 7))
    logits = model(as_tensors(GRAPH), dropout_rate=0.0)
    logits.backward(torch.from_numpy(cotangent))
    gradients = {name: p.grad for name, p in model.named_parameters()}

    def summed(params):
        found = in_flax.apply({'params': params}, GRAPH, train=False)
        return jnp.sum(found * cotangent), found

    with double_precision():
        params = flax_parameters.gnn_params(model.state_dict())
        found, found_logits = jax.jit(jax.grad(summed, has_aux=True))(params)
    np.testing.assert_allclose(found_logits, logits.detach(), rtol=1e-10, atol=1e-12)
    expected = flax_parameters.gnn_params(gradients)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    # Relative to the largest entry of each parameter: sums cancel in some of them.
    for left, right in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-10 * abs(right).max())


@every_depth
def test_parameters_travel_there_and_back(hidden_dims):
    state_dict = torch_model(hidden_dims=hidden_dims).state_dict()
    params = flax_parameters.gnn_params(state_dict)
    back = flax_parameters.gnn_state_dict(params, state_dict)
    assert back.keys() == state_dict.keys()
    for name, array in back.items():
        np.testing.assert_array_equal(array, state_dict[name])


def new_params(model):
    init = jax.jit(functools.partial(model.init, train=False))
    return init(jax.random.PRNGKey(0), GRAPH)['params']


@every_depth
def test_names_and_shapes_are_those_of_a_new_model(hidden_dims):
    new = new_params(flax_model(hidden_dims=hidden_dims))
    copied = flax_parameters.gnn_params(
        torch_model(hidden_dims=hidden_dims).state_dict()
    )
    assert jax.tree.map(np.shape, new) == jax.tree.map(np.shape, copied)


def test_initial_parameters():
    model = flax_model(latent_dim=256, hidden_dims=(256,))
    params = new_params(model)
    # The node update of the second step.
    kernel = np.asarray(params['Dense_4']['kernel'])
    std = 1024**-0.5
    assert kernel.shape == (1024, 256)
    assert kernel.std() == pytest.approx(std, rel=0.02)
    assert abs(kernel).max() <= 2 * std / 0.8796 + 1e-6
    for layer in params.values():
        assert not np.any(layer['bias'])
        assert np.all(layer.get('scale', 1) == 1)


def test_padding_does_not_change_real_graphs():
    params = flax_parameters.gnn_params(torch_model().state_dict())
    with double_precision():
        apply = jax.jit(functools.partial(flax_model().apply, train=False))
        little, more = (
            np.asarray(apply({'params': params}, graph)[:6])
            for graph in (GRAPH, graph_of(range(6), n_node=300, n_edge=900, n_graph=40))
        )
    np.testing.assert_allclose(little, more, rtol=1e-10)
    assert little.std(axis=0).min() > 1e-6  # The graphs are told apart.


def test_dropout_acts_in_training_only():
    params = flax_parameters.gnn_params(torch_model().state_dict())

    @functools.partial(jax.jit, static_argnames=('train', 'dropout_rate'))
    def apply(train, **options):
        return flax_model().apply(
            {'params': params},
            GRAPH,
            train=train,
            rngs={'dropout': jax.random.PRNGKey(3)},
            **options,
        )

    clean = apply(False, dropout_rate=0.5)
    np.testing.assert_array_equal(apply(True, dropout_rate=0.0), clean)
    assert not np.allclose(apply(True, dropout_rate=0.5), clean)
    np.testing.assert_array_equal(apply(True), apply(True, dropout_rate=0.1))


def test_unknown_activation_is_named():
    with pytest.raises(ValueError, match='tanh'):
        flax_model('tanh').init(jax.random.PRNGKey(0), GRAPH, train=False)
