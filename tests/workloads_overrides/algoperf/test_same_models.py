"""The offline workloads' models are AlgoPerf's, whatever their size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.workloads_overrides.ogbg_chembl.small_data import small_dataset
from workloads_overrides.imagenet_vit_fashion_mnist import jax_model as jax_vit
from workloads_overrides.imagenet_vit_fashion_mnist import pytorch_model as pytorch_vit
from workloads_overrides.ogbg_chembl import jax_model as jax_gnn
from workloads_overrides.ogbg_chembl import pytorch_model as pytorch_gnn
from workloads_overrides.ogbg_chembl.graph_batches import BatchBudget, build_batch

pytestmark = pytest.mark.algoperf

VIT_SIZES = {'num_classes': 5, 'width': 24, 'depth': 2, 'mlp_dim': 32, 'num_heads': 3}
every_vit = pytest.mark.parametrize(
    'variant', [{}, {'use_glu': True}], ids=['base', 'glu']
)
GNN_SIZES = {'num_outputs': 7, 'latent_dim': 6, 'num_message_passing_steps': 2}
every_gnn = pytest.mark.parametrize(
    'variant',
    [
        {'hidden_dims': (5,), 'activation_fn_name': 'relu'},
        {'hidden_dims': (5,), 'activation_fn_name': 'gelu'},
        {'hidden_dims': (5,), 'activation_fn_name': 'silu'},
        {'hidden_dims': (5, 5), 'activation_fn_name': 'relu'},
    ],
    ids=['base', 'gelu', 'silu', 'model_size'],
)


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)


@pytest.fixture
def graph():
    budget = BatchBudget(n_node=100, n_edge=200, n_graph=10)
    return build_batch(small_dataset(), np.arange(6), budget)['inputs']


def stock_graph(graph, as_array):
    """Returns a graph in AlgoPerf's type."""
    jraph = pytest.importorskip('jraph')
    fields = graph._asdict()
    return jraph.GraphsTuple(
        **{k: None if v is None else as_array(v) for k, v in fields.items()}
    )


def randomised(tree):
    """Returns parameters of the same shapes with nothing at zero."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype),
        tree,
    )


def check_same_in_pytorch(ours, stock, *inputs_of_each):
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter.normal_(std=0.3)
    # Strict: the names and shapes are the same.
    ours.load_state_dict(stock.state_dict())
    outputs = []
    for model, inputs in zip((ours, stock), inputs_of_each, strict=True):
        output = model(inputs, dropout_rate=0.0)
        output.square().sum().backward()
        outputs.append(output)
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-4)
    gradients = {name: p.grad for name, p in stock.named_parameters()}
    for name, parameter in ours.named_parameters():
        scale = gradients[name].abs().max().item()
        # Attention keys have biases without a gradient.
        torch.testing.assert_close(
            parameter.grad, gradients[name], rtol=0, atol=1e-3 * scale + 1e-3
        )


def check_same_in_jax(ours, stock, our_inputs, stock_inputs):
    key = jax.random.PRNGKey(0)
    first = ours.init(key, our_inputs, train=False)
    # The same names and, with the same key, numbers.
    jax.tree.map(
        np.testing.assert_array_equal, first, stock.init(key, stock_inputs, train=False)
    )
    params = randomised(first)
    np.testing.assert_allclose(
        ours.apply(params, our_inputs, train=False),
        stock.apply(params, stock_inputs, train=False),
        rtol=1e-4,
        atol=1e-4,
    )


@every_vit
def test_vit_in_pytorch(variant, images):
    from algoperf.workloads.imagenet_vit.imagenet_pytorch import models

    ours = pytorch_vit.ViT(
        image_size=16, channels=3, patch_size=4, **VIT_SIZES, **variant
    )
    stock = models.ViT(patch_size=(4, 4), **VIT_SIZES, **variant)
    inputs = torch.from_numpy(images)
    check_same_in_pytorch(ours, stock, inputs, inputs)


@every_gnn
def test_gnn_in_pytorch(variant, graph):
    from algoperf.workloads.ogbg.ogbg_pytorch import models

    ours = pytorch_gnn.GraphNetwork(**GNN_SIZES, **variant)
    stock = models.GNN(**GNN_SIZES, **variant)
    tensors = type(graph)(*(None if x is None else torch.from_numpy(x) for x in graph))
    check_same_in_pytorch(ours, stock, tensors, stock_graph(graph, torch.from_numpy))


@every_vit
def test_vit_in_jax(variant, images):
    from algoperf.workloads.imagenet_vit.imagenet_jax import models

    ours = jax_vit.ViT(patch_size=4, **VIT_SIZES, **variant)
    stock = models.ViT(patch_size=(4, 4), **VIT_SIZES, **variant)
    inputs = jnp.asarray(images.transpose(0, 2, 3, 1))
    check_same_in_jax(ours, stock, inputs, inputs)


@every_gnn
def test_gnn_in_jax(variant, graph):
    from algoperf.workloads.ogbg.ogbg_jax import models

    ours = jax_gnn.GraphNetwork(**GNN_SIZES, **variant)
    stock = models.GNN(**GNN_SIZES, **variant)
    check_same_in_jax(ours, stock, graph, stock_graph(graph, jnp.asarray))
