"""Layers whose gradients share an array come out as each by itself."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from submission.jax.capture import find_applications
from submission.jax.first_order import FirstOrderOptimizer
from submission.jax.matrices import MatrixStacks
from submission.jax.naming import flatten, unflatten
from submission.jax.preconditioner import KFACPreconditioner
from submission.settings import Settings
from tests.submission.training import REQUIRED

from .curvature import double, init, random_sums

pytestmark = pytest.mark.usefixtures('double_precision')

INPUTS = np.ones((2, 4, 4, 4))


class Model(nn.Module):
    """Two pairs of layers with equal matrices, one of which lacks a bias."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (1, 1), feature_group_count=2, name='grouped')(x)
        x = nn.Conv(4, (1, 1), feature_group_count=2, name='as_grouped')(x)
        x = nn.Dense(4, name='with_bias')(x.mean((1, 2)))
        x = nn.LayerNorm(name='norm')(x)
        x = nn.Dense(5, name='wider')(x)
        return nn.Dense(4, use_bias=False, name='without_bias')(x)


STACKS = {
    'layers_2x2x3': ['as_grouped', 'grouped'],
    'layers_1x4x5': ['with_bias', 'without_bias'],
    'layers_1x5x5': ['wider'],
}


@pytest.fixture
def params():
    return jax.tree.map(jnp.asarray, init(Model(), INPUTS))


def preconditioner_of(settings, params, names=None):
    """One for the layers of these names, with inverses, and its state."""
    shapes = {
        name: value.shape
        for name, value in flatten(params).items()
        if names is None or name.partition('/')[0] in names
    }
    applications = find_applications(lambda: Model().init(jax.random.key(0), INPUTS))
    preconditioner = KFACPreconditioner(shapes, applications, settings)
    sums = random_sums(preconditioner.layers)
    state = preconditioner.update_factors(preconditioner.init(params), sums, 8.0, 1.0)
    return preconditioner, preconditioner.update_inverses(state)


def test_what_is_gathered_comes_back(params):
    preconditioner, _ = preconditioner_of(Settings(**REQUIRED), params)
    stacks = preconditioner.stacks
    found = {
        stack: [layer.name for layer in layers]
        for stack, layers in stacks.layers.items()
    }
    assert found == STACKS
    named = flatten(params)
    gathered = stacks.gather(named)
    assert {f'layers_{"x".join(map(str, m.shape[1:]))}' for m in gathered.values()} == (
        set(STACKS)
    )
    back = stacks.split(gathered)
    assert back.keys() == stacks.parameter_names
    assert back.keys() == {name for name in named if not name.startswith('norm')}
    for name, value in back.items():
        np.testing.assert_array_equal(value, named[name])


def test_no_layers():
    stacks = MatrixStacks.of([])
    assert stacks.gather({}) == stacks.split({}) == {}
    assert not stacks.parameter_names


@pytest.mark.parametrize('rule', ['nadamw', 'grafted', 'momentum', 'spectral'])
def test_steps_are_those_of_each_layer_by_itself(rule, params):
    settings = Settings(**{**REQUIRED, 'first_order_rule': rule})
    gradients = [
        unflatten(
            {
                name: double(*value.shape, seed=10 * step + n) * 10.0 ** (n - 4)
                for n, (name, value) in enumerate(flatten(params).items())
            },
            params,
        )
        for step in range(3)
    ]

    def stepped(names):
        """The parameters after three steps, K-FAC having the layers of these names."""
        preconditioner, kfac = preconditioner_of(settings, params, names)
        optimizer, now = FirstOrderOptimizer(settings, preconditioner), params
        state, step = optimizer.init(params), jax.jit(optimizer.step)
        for gradient in gradients:
            now, state, _ = step(now, gradient, state, kfac, 0.1)
        return flatten(now)

    together = stepped(None)
    assert together.keys() == flatten(params).keys()
    for layer in {name for names in STACKS.values() for name in names}:
        alone = stepped([layer])
        for name in (f'{layer}/kernel', f'{layer}/bias'):
            if name in alone:
                np.testing.assert_allclose(together[name], alone[name], rtol=1e-10)


def test_parameters_keep_their_precision(params):
    """Also where a layer of another precision shares their array."""
    params['with_bias'] = jax.tree.map(
        lambda value: value.astype(jnp.bfloat16), params['with_bias']
    )
    settings = Settings(**{**REQUIRED, 'first_order_rule': 'spectral'})
    preconditioner, kfac = preconditioner_of(settings, params)
    optimizer = FirstOrderOptimizer(settings, preconditioner)
    now, _, _ = jax.jit(optimizer.step)(
        params, params, optimizer.init(params), kfac, 0.1
    )
    for name, value in flatten(params).items():
        assert flatten(now)[name].dtype == value.dtype
        assert not np.array_equal(flatten(now)[name], value)
