"""A U-Net, with its transposed convolution, in both frameworks."""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from submission.jax import convolutions as jax_convolutions
from submission.pytorch import convolutions as pytorch_convolutions
from tests.workloads_overrides.double_precision import double_precision

from . import training as pytorch_training
from .jax import training as jax_training
from .tiny_unet import JaxUNetWorkload, PyTorchUNetWorkload, flax_parameters

LAYERS = {'down', 'middle', 'up', 'merge', 'last'}
both = pytest.mark.parametrize('approximation', ['expand', 'reduce'])


def _point(approximation, **changes):
    return pytorch_training.hyperparameters(
        approximation=approximation,
        statistics_interval=3,
        inverse_interval=3,
        **changes,
    )


@both
def test_the_loss_falls_in_pytorch(approximation):
    workload, point = PyTorchUNetWorkload(), _point(approximation, learning_rate=0.02)
    state, model = pytorch_training.init(workload, point)
    before = workload.loss(model, workload.batch(1000, n=50))
    pytorch_training.train(workload, point, state, model, range(20))
    assert workload.loss(model, workload.batch(1000, n=50)) < 0.5 * before
    layers = state['preconditioner'].state_dict()['layers']
    assert layers.keys() == LAYERS
    assert layers['up']['a']['inverse'].shape == (1, 24, 24)


@pytest.mark.slow
def test_the_loss_falls_in_jax():
    workload, point = JaxUNetWorkload(), _point('expand', learning_rate=0.02)
    state, params, model_state = jax_training.init(workload, point)
    before = workload.loss(params, model_state, workload.batch(1000, n=50))
    state, params, _ = jax_training.train(
        workload, point, state, params, model_state, range(20)
    )
    after = workload.loss(params, model_state, workload.batch(1000, n=50))
    assert after < 0.5 * before
    factors = state[0].kfac.factors
    names = factors.stacks.order
    assert {name.rpartition('/')[0] for name in names} == LAYERS
    assert factors.inverses_of(['up/a']).shape == (1, 1, 24, 24)


@pytest.fixture
def _double_precision():
    with double_precision():
        yield


def _relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def _pytorch_factors(state):
    layers = state['preconditioner'].state_dict()['layers']
    factors = {
        f'{name}/{side}': sides[side]['moving_average'].numpy()
        for name, sides in layers.items()
        for side in 'ab'
    }
    # Flax's kernel is the flipped one of PyTorch: 2 x 2 elements in reverse order.
    factors['up/a'] = factors['up/a'].reshape(6, 4, 6, 4)[:, ::-1, :, ::-1]
    factors['up/a'] = factors['up/a'].reshape(1, 24, 24)
    return factors


@both
@pytest.mark.usefixtures('_double_precision')
def test_both_frameworks_agree(approximation):
    """Without normalisations, below which gradients cancel over pixels."""
    point = _point(approximation)
    pytorch_workload = PyTorchUNetWorkload(normalise=False, dtype=torch.float64)
    jax_workload = JaxUNetWorkload(normalise=False, dtype=np.float64)
    pytorch_state, model = pytorch_training.init(pytorch_workload, point)
    jax_state, params, model_state = jax_training.init(jax_workload, point)
    params = jax.tree.map(jnp.asarray, flax_parameters(model))
    before, batch = flax_parameters(model), pytorch_workload.batch(1000, n=50)
    loss_before = pytorch_workload.loss(model, batch)

    def train(steps):
        nonlocal jax_state, params
        pytorch_training.train(pytorch_workload, point, pytorch_state, model, steps)
        jax_state, params, _ = jax_training.train(
            jax_workload, point, jax_state, params, model_state, steps
        )

    train(range(1))
    factors = jax_state[0].kfac.factors
    expected = _pytorch_factors(pytorch_state)
    assert sorted(expected) == sorted(factors.stacks.order)
    for name, factor in expected.items():
        (found,) = factors.stacks.pick(factors.moving_average, [name])
        assert _relative_error(np.asarray(found), factor) < 1e-10, name
    train(range(1, 8))
    assert pytorch_workload.loss(model, batch) < 0.8 * loss_before
    for module, parameters in flax_parameters(model).items():
        for kind, values in parameters.items():
            assert _relative_error(before[module][kind], values) > 1e-3
            found = np.asarray(params[module][kind])
            assert _relative_error(found, values) < 1e-8, module


GEOMETRIES = {
    'stride': {'stride': (2, 3)},
    'padding': {'stride': 2, 'padding': (1, 2), 'output_padding': (1, 0)},
    'dilation': {'stride': (1, 2), 'dilation': (2, 1), 'padding': 1, 'bias': False},
}


@pytest.mark.parametrize('geometry', GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.usefixtures('_double_precision')
def test_transposed_convolutions_have_the_same_rows(geometry):
    module = nn.ConvTranspose2d(2, 3, 3, **geometry, dtype=torch.float64)
    # Flax's padding is that of the input with zeros between its pixels.
    outer = [
        d * (k - 1) - p
        for k, d, p in zip(
            module.kernel_size, module.dilation, module.padding, strict=True
        )
    ]
    flax_module = flax.linen.ConvTranspose(
        3,
        (3, 3),
        module.stride,
        [(p, p + o) for p, o in zip(outer, module.output_padding, strict=True)],
        module.dilation,
        use_bias=module.bias is not None,
        transpose_kernel=True,
    )
    weights = [p.detach() for p in module.parameters()]
    kernel = jnp.asarray(weights[0].permute(2, 3, 1, 0).numpy())
    parameters = [kernel, *(jnp.asarray(bias.numpy()) for bias in weights[1:])]
    inputs = torch.randn(2, 2, 4, 3, dtype=torch.float64)
    expected = pytorch_convolutions.ConvTransposeLayer('', module)
    found = jax_convolutions.ConvTransposeLayer('', flax_module, kernel.shape)
    channels_last = jnp.asarray(inputs.permute(0, 2, 3, 1).numpy())
    for sum_positions in (False, True):
        rows, n_positions = expected.input_rows(
            inputs, sum_positions, module(inputs).shape
        )
        flax_rows, flax_positions = found.input_rows(channels_last, sum_positions)
        np.testing.assert_allclose(flax_rows, rows, rtol=1e-12, atol=1e-12)
        assert flax_positions == n_positions
    matrix = expected.to_matrix(weights)
    np.testing.assert_array_equal(found.to_matrix(parameters), matrix)
