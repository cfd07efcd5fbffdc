"""K-FAC-expand's factors from some of the positions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from submission.jax.capture import Capture
from submission.jax.preconditioner import KFACPreconditioner
from submission.jax.weight_sharing import BatchStructure
from submission.settings import Settings
from tests.submission.chosen_rows import CASES, D_IN, D_OUT, UPDATES, factors

from .curvature import Graphs, double, find_layers, init, make_sums

pytestmark = pytest.mark.usefixtures('double_precision')

LOSS_TERMS = 7.0
CLOSE = {'rtol': 1e-12, 'atol': 1e-12}


def _graphs(n_node, n_edge):
    return Graphs(
        np.zeros((sum(n_node), 2)),
        np.zeros((sum(n_edge), 2)),
        np.zeros(sum(n_edge), int),
        np.array(n_node),
        np.array(n_edge),
    )


def _capturing(module, values, stride, cotangent):
    """Returns what takes the factor sums, from gradients of the outputs."""
    params = init(module, values)
    layers, _ = find_layers(module, params, values)

    @jax.jit
    def capture_sums(batch, update):
        capture = Capture(
            list(layers.values()),
            BatchStructure.from_batch(batch, stride, update),
            make_sums('expand'),
        )
        outputs, backward, _ = capture.vjp(
            lambda params: (module.apply({'params': params}, values), None), params
        )
        assert not capture.errors
        return backward(cotangent(outputs))[1]

    return capture_sums


def _captured(module, values, batch, stride, cotangent):
    return _capturing(module, values, stride, cotangent)(batch, 0)


class _Layer(nn.Module):
    remat: bool = False

    @nn.compact
    def __call__(self, x):
        layer = nn.remat(nn.Dense) if self.remat else nn.Dense
        return layer(D_OUT, name='layer')(x)


@pytest.mark.parametrize('case', CASES)
def test_against_loops_over_the_taken_rows(case):
    case = CASES[case]
    inputs, gradients = case.values()
    # Each is compiled anew.
    for stride in (3, 100):
        capture_sums = _capturing(
            _Layer(), inputs, stride, lambda _: jnp.asarray(gradients)
        )
        for update in UPDATES:
            sums = capture_sums(case.full_batch(_graphs), update)
            found = sums['layer'].kronecker_factors(LOSS_TERMS)
            expected = factors(case, stride, update, LOSS_TERMS)
            for side, factor in zip(found, expected, strict=True):
                np.testing.assert_allclose(side[0], factor, **CLOSE)


def _dense_batch(n, **more):
    return {'inputs': np.zeros((n, 1)), 'targets': np.zeros(n), **more}


def test_rematerialised():
    values = double(6, 5, D_IN)
    plain, again = (
        _captured(_Layer(remat), values, _dense_batch(6), 3, jnp.square)['layer']
        for remat in (False, True)
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **CLOSE), plain, again)


@pytest.mark.parametrize('stride', [2, 3, 5, 50])
def test_positions_all_alike(stride):
    """The scale of both factors does not depend on the stride."""
    values = np.repeat(double(10, 1, D_IN), 5, 1)
    batch = _dense_batch(10, weights=np.array([1.0] * 8 + [0.0] * 2))
    found, expected = (
        _captured(_Layer(), values, batch, k, jnp.square)['layer'] for k in (stride, 1)
    )
    for side, other in zip(
        found.kronecker_factors(LOSS_TERMS),
        expected.kronecker_factors(LOSS_TERMS),
        strict=True,
    ):
        np.testing.assert_allclose(side, other, **CLOSE)


@pytest.mark.parametrize('n_queries', [1, 3])
def test_all_rows_of_a_learnt_query_are_taken(n_queries):
    """It has no examples, so its rows are not the positions of any."""

    class WithQuery(nn.Module):
        @nn.compact
        def __call__(self, x):
            query = self.param('query', nn.initializers.ones, (n_queries, 2, D_IN))
            own = nn.Dense(D_OUT, name='own')(query)
            return nn.Dense(D_OUT, name='layer')(x) + own.sum((0, 1))

    found, expected = (
        _captured(WithQuery(), double(4, 5, D_IN), _dense_batch(4), k, jnp.ones_like)[
            'own'
        ]
        for k in (3, 1)
    )
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, **CLOSE), found, expected
    )


@pytest.mark.parametrize(('approximation', 'stride'), [('expand', 3), ('reduce', 1)])
def test_preconditioner_takes_the_stride_from_its_settings(approximation, stride):
    settings = Settings(approximation=approximation, statistics_stride=3)
    preconditioner = KFACPreconditioner({}, {}, settings)
    assert preconditioner.capture(_dense_batch(7))._structure.stride == stride
