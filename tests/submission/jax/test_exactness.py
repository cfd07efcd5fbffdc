"""Where the approximations are exact, and where they are not.

The yardstick is the GGN from JAX's autodiff, in float64. Propositions, lemmas and
settings are those of Eschenhagen et al. (2023).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from submission.jax import labels
from submission.likelihood import Likelihood

from .curvature import (
    EXACT,
    WRONG,
    Graphs,
    batch_of,
    captured_sums,
    covariance,
    double,
    gaussian,
    half_squared_norm,
    init,
    kron,
    layer_errors,
    relative_error,
    type_2_factors,
)

pytestmark = pytest.mark.usefixtures('double_precision')

N, R = 5, 3
FULL_COVARIANCE = gaussian(covariance(4))


def _mean(x):
    return x.mean(1)


def _sum(x):
    return x.sum(1)


class Chain(nn.Module):
    """Modules and functions in a row."""

    parts: Sequence[Any]

    @nn.compact
    def __call__(self, x):
        for part in self.parts:
            x = part(x)
        return x


def _deep_linear(*above: Callable, bias=True):
    layers = [nn.Dense(d, use_bias=bias) for d in (5, 3, 4)]
    return Chain([*layers, *above])


def _errors(module, inputs, loss, loss_terms, names=None):
    return layer_errors(
        module, init(module, inputs), batch_of(inputs), loss, loss_terms, names
    )


class TestLinearNetworks:
    @pytest.mark.parametrize('bias', [True, False], ids=['bias', 'no bias'])
    def test_expand_is_exact_with_a_loss_term_for_each_position(self, bias):
        """Propositions 1 and 4; reduce is wrong there."""
        errors = _errors(
            _deep_linear(bias=bias), double(N, R, 6), FULL_COVARIANCE, N * R
        )
        assert len(errors) == 3
        for of_layer in errors.values():
            assert of_layer['expand'] <= EXACT
            assert of_layer['reduce'] > WRONG

    @pytest.mark.parametrize('aggregation', [_mean, _sum])
    def test_reduce_is_exact_with_aggregated_positions(self, aggregation):
        """Proposition 2; expand is wrong there."""
        errors = _errors(_deep_linear(aggregation), double(N, R, 6), FULL_COVARIANCE, N)
        assert len(errors) == 3
        for of_layer in errors.values():
            assert of_layer['reduce'] <= EXACT
            assert of_layer['expand'] > WRONG

    def test_unequal_position_weights_break_reduce(self):
        """Proposition 2 needs a scaled sum: one factor for all positions."""

        def weighted(x):
            return jnp.einsum('nrd,r->nd', x, np.array([0.2, 1.0, 2.5]))

        errors = _errors(
            _deep_linear(weighted), double(N, R, 6), half_squared_norm, N, ['parts_0']
        )
        assert errors['parts_0']['reduce'] > WRONG
        assert errors['parts_0']['expand'] > WRONG


def _around(*above):
    """The layer under test between a nonlinear trunk and whatever comes above."""

    def attention(x):
        return jax.nn.softmax(x @ x.swapaxes(1, 2)) @ x

    return Chain(
        [nn.Dense(7), nn.gelu, attention, nn.tanh, nn.Dense(5), *above, nn.Dense(4)]
    )


def _gate(x):
    return x * np.array([0.2, 1.0, 2.5])[:, None]


class TestSufficientConditions:
    """Lemmas 3 and 5: only the Jacobian above the layer has to be constant."""

    def _errors(self, above, loss_terms):
        inputs = double(N, R, 6)
        errors = _errors(
            _around(*above), inputs, FULL_COVARIANCE, loss_terms, ['parts_4']
        )
        return errors['parts_4']

    def test_expand_whatever_the_inputs(self):
        """Lemma 3: the Jacobian term depends on neither n nor r."""
        errors = self._errors([], N * R)
        assert errors['expand'] <= EXACT
        assert errors['reduce'] > WRONG

    @pytest.mark.parametrize('above', [nn.relu, _gate], ids=['on n', 'on r'])
    def test_expand_needs_a_constant_jacobian(self, above):
        assert self._errors([above], N * R)['expand'] > WRONG

    def test_reduce_whatever_the_inputs(self):
        """Lemma 5: the Jacobian of the output depends on neither n nor r."""
        errors = self._errors([_mean], N)
        assert errors['reduce'] <= EXACT
        assert errors['expand'] > WRONG

    @pytest.mark.parametrize(
        'above', [[_gate, _mean], [_mean, nn.relu]], ids=['on r', 'on n']
    )
    def test_reduce_needs_a_constant_jacobian(self, above):
        assert self._errors(above, N)['reduce'] > WRONG


def _flat_pixels(x):
    return x.reshape(x.shape[0], -1, x.shape[-1])


GEOMETRIES = {
    'same': {},
    'circular, no bias': {'padding': 'CIRCULAR', 'use_bias': False},
    'all': {
        'strides': (2, 1),
        'padding': ((1, 0), (1, 2)),
        'kernel_dilation': (2, 1),
        'feature_group_count': 2,
    },
}


TRANSPOSED_GEOMETRIES = {
    'circular, no bias': {'padding': 'CIRCULAR', 'strides': (2, 1), 'use_bias': False},
    'all': {
        'strides': (2, 1),
        'padding': ((2, 3), (1, 2)),
        'kernel_dilation': (2, 1),
        'transpose_kernel': True,
    },
}


@pytest.mark.parametrize(
    ('kind', 'geometry'),
    [(nn.Conv, geometry) for geometry in GEOMETRIES.values()]
    + [(nn.ConvTranspose, geometry) for geometry in TRANSPOSED_GEOMETRIES.values()],
    ids=[*GEOMETRIES, *(f'transposed, {name}' for name in TRANSPOSED_GEOMETRIES)],
)
class TestConvolutions:
    def _errors(self, kind, geometry, above, terms_per_example):
        module = Chain([kind(4, (3, 3), **geometry), *above])
        # Small where the output is larger; the GGN has the square of its pixels.
        pixels = (2, 3) if kind is nn.ConvTranspose else (5, 4)
        inputs = double(3, *pixels, 2)
        outputs = jax.eval_shape(module.init_with_output, jax.random.key(0), inputs)[0]
        terms = math.prod(outputs.shape[1:-1]) if terms_per_example is None else 1
        errors = _errors(module, inputs, FULL_COVARIANCE, 3 * terms)
        return errors['parts_0']

    def test_expand_with_a_loss_term_for_each_pixel(self, kind, geometry):
        errors = self._errors(kind, geometry, [_flat_pixels], None)
        assert errors['expand'] <= EXACT
        assert errors['reduce'] > WRONG

    def test_reduce_with_global_average_pooling(self, kind, geometry):
        errors = self._errors(kind, geometry, [_flat_pixels, _mean], 1)
        assert errors['reduce'] <= EXACT
        assert errors['expand'] > WRONG


class TestDeepTransposedConvolutions:
    """What a transposed convolution does to the Jacobian below and above it."""

    def _errors(self, module, loss_terms):
        return _errors(module, double(3, 4, 2), half_squared_norm, loss_terms)

    @pytest.mark.parametrize(('size', 'is_exact'), [(2, True), (3, False)])
    def test_expand_needs_patches_that_do_not_overlap(self, size, is_exact):
        module = Chain(
            [
                nn.ConvTranspose(3, (3,)),
                nn.ConvTranspose(2, (size,), (2,), use_bias=False),
            ]
        )
        errors = self._errors(module, 3 * 8)
        assert (errors['parts_0']['expand'] <= EXACT) == is_exact
        assert (errors['parts_0']['expand'] > WRONG) != is_exact
        assert errors['parts_1']['expand'] <= EXACT

    @pytest.mark.parametrize(
        ('padding', 'is_exact'), [('CIRCULAR', True), ('SAME', False)]
    )
    def test_reduce_needs_pixels_that_count_the_same(self, padding, is_exact):
        module = Chain(
            [
                nn.Conv(3, (3,)),
                nn.ConvTranspose(4, (4,), (2,), padding),
                _mean,
            ]
        )
        errors = self._errors(module, 3)
        assert (errors['parts_0']['reduce'] <= EXACT) == is_exact
        assert (errors['parts_0']['reduce'] > WRONG) != is_exact
        assert errors['parts_1']['reduce'] <= EXACT
        assert errors['parts_1']['expand'] > WRONG


class TestSeveralAxes:
    """Kernels with more than two axes, as attention has."""

    module_parts = (
        nn.DenseGeneral((2, 3)),
        nn.Einsum((2, 3, 4), 'nrgc,gcd->nrgd'),
        nn.DenseGeneral(4, axis=(-2, -1)),
    )

    def test_expand(self):
        errors = _errors(
            Chain(self.module_parts), double(N, R, 5), FULL_COVARIANCE, N * R
        )
        assert len(errors) == 3
        for of_layer in errors.values():
            assert of_layer['expand'] <= EXACT
            assert of_layer['reduce'] > WRONG

    def test_reduce(self):
        errors = _errors(
            Chain([*self.module_parts, _mean]), double(N, R, 5), FULL_COVARIANCE, N
        )
        assert len(errors) == 3
        for of_layer in errors.values():
            assert of_layer['reduce'] <= EXACT
            assert of_layer['expand'] > WRONG


class GraphNetwork(nn.Module):
    """Linear layers on nodes, pooled by graph."""

    pooling: str

    @nn.compact
    def __call__(self, graphs):
        nodes = nn.Dense(4, name='second')(nn.Dense(5, name='first')(graphs.nodes))
        sums = jax.ops.segment_sum(nodes, graphs.graph_of_node(), len(graphs.n_node))
        if self.pooling == 'sum':
            return sums
        return sums / jnp.maximum(graphs.n_node, 1)[:, None]


def _graphs(n_node):
    n_edge = np.full(len(n_node), 2)
    return Graphs(
        double(sum(n_node), 6),
        double(n_edge.sum(), 3),
        np.zeros(n_edge.sum(), int),
        np.array(n_node),
        n_edge,
    )


class TestGraphs:
    """The number of positions differs between examples."""

    n_node = (1, 7, 3, 4)

    def _batch(self, n_node=n_node):
        weights = np.ones((len(n_node), 4))
        return {'inputs': _graphs(n_node), 'targets': weights * 0, 'weights': weights}

    def _errors(self, pooling, normalisation, n_node=n_node):
        module, batch = GraphNetwork(pooling), self._batch(n_node)
        params = init(module, batch['inputs'])
        errors = layer_errors(
            module,
            params,
            batch,
            half_squared_norm,
            len(n_node),
            normalisation=normalisation,
            approximations=('reduce',),
        )
        return [errors[name]['reduce'] for name in ('first', 'second')]

    @pytest.mark.parametrize(
        ('pooling', 'fitting', 'other'),
        [('mean', 'mean_inputs', 'sum_inputs'), ('sum', 'sum_inputs', 'mean_inputs')],
    )
    def test_the_normalisation_fits_the_pooling(self, pooling, fitting, other):
        assert max(self._errors(pooling, fitting)) <= EXACT
        assert min(self._errors(pooling, other)) > WRONG

    @pytest.mark.parametrize('normalisation', ['mean_inputs', 'sum_inputs'])
    def test_both_agree_on_graphs_of_one_size(self, normalisation):
        assert max(self._errors('sum', normalisation, (3, 3, 3, 3, 3))) <= EXACT

    def test_graphs_without_rows(self):
        """They have no input to take part in the mean over n."""
        for pooling, normalisation in (('mean', 'mean_inputs'), ('sum', 'sum_inputs')):
            assert max(self._errors(pooling, normalisation, (3, 0, 2, 4))) <= EXACT

    @pytest.mark.parametrize(
        ('approximation', 'normalisation', 'weighted'),
        [
            ('expand', 'mean_inputs', True),
            ('reduce', 'mean_inputs', False),
            ('reduce', 'sum_inputs', True),
        ],
    )
    def test_padding_graphs_change_nothing(
        self, approximation, normalisation, weighted
    ):
        """jraph's padding: one graph with all spare rows, empty graphs after it."""
        module, batch = GraphNetwork('sum'), self._batch()
        graphs = batch['inputs']
        params = init(module, graphs)
        padded = Graphs(
            np.concatenate([graphs.nodes, 100 * double(5, 6, seed=1)]),
            np.concatenate([graphs.edges, 100 * double(9, 3, seed=1)]),
            np.zeros(8 + 9, int),
            np.array([*self.n_node, 5, 0]),
            np.array([*graphs.n_edge, 9, 0]),
        )
        weights = np.concatenate([batch['weights'], np.zeros((2, 4))])
        padded_batch = {'inputs': padded, 'targets': weights * 0}
        if weighted:
            padded_batch['weights'] = weights

        def padded_loss(outputs):
            return half_squared_norm(outputs * weights)

        args = (len(self.n_node), approximation, normalisation)
        expected = type_2_factors(module, params, batch, half_squared_norm, *args)
        actual = type_2_factors(module, params, padded_batch, padded_loss, *args)
        assert expected.keys() == actual.keys() == {'first', 'second'}
        for name in expected:
            for found, wanted in zip(actual[name], expected[name], strict=True):
                np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def _mlp(*above):
    return Chain([nn.Dense(5), nn.tanh, nn.Dense(4), *above])


def _empirical(module, params, batch, loss, loss_terms, scale, approximation):
    """Factors from the gradient of the loss itself."""
    sums = captured_sums(
        module,
        params,
        batch,
        lambda outputs: jax.grad(loss)(outputs)[None],
        approximation,
    )
    return {
        name: one.kronecker_factors(loss_terms, scale) for name, one in sums.items()
    }


@pytest.mark.parametrize('approximation', ['expand', 'reduce'])
class TestScale:
    def test_mean_loss_and_summed_loss_give_the_same_factors(self, approximation):
        module, inputs, targets = _mlp(), double(N, R, 6), double(N, R, 4, seed=1)
        params, batch, loss_terms = init(module, inputs), batch_of(inputs), N * R

        def summed(outputs):
            return half_squared_norm(outputs - targets)

        def mean(outputs):
            return summed(outputs) / loss_terms

        args = (module, params, batch)
        from_sum = _empirical(*args, summed, loss_terms, 1.0, approximation)
        from_mean = _empirical(*args, mean, loss_terms, loss_terms, approximation)
        for name, factors in from_sum.items():
            for wanted, found in zip(factors, from_mean[name], strict=True):
                np.testing.assert_allclose(found, wanted, rtol=1e-12)

    def test_copies_of_the_batch_change_nothing(self, approximation):
        module, inputs = _mlp(), double(2, R, 6)
        params = init(module, inputs)
        once, twice = (
            type_2_factors(
                module,
                params,
                batch_of(np.concatenate([inputs] * copies)),
                half_squared_norm,
                copies * 2 * R,
                approximation,
            )
            for copies in (1, 2)
        )
        for name in once:
            np.testing.assert_allclose(
                kron(once[name]), kron(twice[name]), rtol=1e-10, atol=1e-12
            )


@pytest.mark.parametrize('shape', [(N, 6), (N, 1, 6)], ids=['no axis', 'axis of one'])
def test_the_approximations_coincide_at_one_position(shape):
    module, batch = _mlp(), batch_of(double(*shape))
    params = init(module, batch['inputs'])
    expand, reduce = (
        type_2_factors(module, params, batch, half_squared_norm, N, approximation)
        for approximation in ('expand', 'reduce')
    )
    for name in expand:
        for left, right in zip(expand[name], reduce[name], strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-13)


def test_one_example_without_weight_sharing_is_exact():
    def loss(outputs):
        return -jax.nn.log_softmax(outputs)[:, 0].sum()

    errors = _errors(_mlp(), double(1, 6), loss, 1)
    assert len(errors) == 2
    for of_layer in errors.values():
        assert max(of_layer.values()) <= EXACT


@pytest.mark.parametrize('approximation', ['expand', 'reduce'])
class TestEmpiricalFisher:
    """Without weight sharing."""

    def _compare(self, approximation, n):
        module, inputs, targets = _mlp(), double(n, 6), double(n, 4, seed=1)
        params = init(module, inputs)

        def loss(outputs):
            return half_squared_norm(outputs - targets) / n

        factors = _empirical(
            module, params, batch_of(inputs), loss, n, n, approximation
        )

        def loss_of_one(params, example, target):
            outputs = module.apply({'params': params}, example[None])
            return half_squared_norm(outputs[0] - target)

        of_examples = jax.jit(jax.vmap(jax.grad(loss_of_one), (None, 0, 0)))
        return factors, of_examples(params, inputs, targets)

    def test_one_example_equals_the_outer_product_of_its_gradient(self, approximation):
        factors, gradients = self._compare(approximation, 1)
        for name in ('parts_0', 'parts_2'):
            kernel, bias = (gradients[name][k][0] for k in ('kernel', 'bias'))
            vector = np.concatenate([kernel, bias[None]]).ravel()
            expected = np.outer(vector, vector)
            assert relative_error(kron(factors[name])[0], expected) <= EXACT

    def test_factors_follow_from_per_example_gradients(self, approximation):
        """B is the mean outer product of the bias's gradients, one per example."""
        factors, gradients = self._compare(approximation, N)
        for name in ('parts_0', 'parts_2'):
            g = gradients[name]['bias']
            np.testing.assert_allclose(factors[name][1][0], g.T @ g / N, rtol=1e-10)


def _categorical_loss(weights):
    def loss(outputs):
        return -(jax.nn.log_softmax(outputs)[..., 0] * weights).sum()

    return loss


def _bernoulli_loss(weights):
    def loss(outputs):
        losses = optax.sigmoid_binary_cross_entropy(outputs, jnp.zeros_like(outputs))
        return (losses * weights).sum()

    return loss


def _squared_error(weights):
    return lambda outputs: 1.7 * (outputs**2 * weights[..., None]).sum()


MASK = np.array([[1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]], float)
TERM_WEIGHTS = np.array([1.0, 0.5, 2.0, 1.0])


@pytest.mark.parametrize(
    ('approximation', 'likelihood', 'make_loss', 'weights', 'scale'),
    [
        ('expand', Likelihood.CATEGORICAL, _categorical_loss, TERM_WEIGHTS, 1.0),
        ('reduce', Likelihood.CATEGORICAL, _categorical_loss, TERM_WEIGHTS, 1.0),
        ('reduce', Likelihood.BERNOULLI, _bernoulli_loss, MASK, 1.0),
        ('expand', Likelihood.GAUSSIAN, _squared_error, np.ones(4), 1.7),
    ],
    ids=['categorical, expand', 'categorical, reduce', 'Bernoulli', 'Gaussian'],
)
def test_monte_carlo_converges_to_the_exact_ggn(
    approximation, likelihood, make_loss, weights, scale
):
    """Copies of the batch are samples; the error falls like 1 / sqrt(samples)."""
    module = Chain([nn.Dense(5), nn.tanh, nn.Dense(5), _mean, nn.tanh, nn.Dense(4)])
    inputs = double(4, R, 6)
    params = init(module, inputs)
    loss_terms = weights.sum()
    exact = type_2_factors(
        module,
        params,
        batch_of(inputs, weights=weights),
        make_loss(weights),
        loss_terms,
        approximation,
    )
    for samples in (400, 20_000):
        copies = batch_of(
            np.tile(inputs, (samples, 1, 1)),
            weights=np.concatenate([weights] * samples),
        )

        def sampled(outputs, copies=copies):
            gradient = labels.sampled_output_gradient(
                likelihood, outputs, copies, jax.random.key(7), scale
            )
            return gradient[None]

        sums = captured_sums(module, params, copies, sampled, approximation)
        for name, factors in exact.items():
            found = sums[name].kronecker_factors(loss_terms * samples)
            error = relative_error(kron(found), kron(factors))
            assert error <= 4.0 / math.sqrt(samples)
