"""Which distribution labels are sampled from, and the gradients of the samples."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from submission.jax.labels import sampled_output_gradient, squared_error_scale
from submission.likelihood import Likelihood, likelihood_of
from workloads_overrides import spec

from .curvature import double

pytestmark = pytest.mark.usefixtures('double_precision')

N, T, C = 6, 3, 4
CLOSE = {'rtol': 1e-10, 'atol': 1e-12}


def _sample(likelihood, outputs, batch=None, seed=0, scale=1.0):
    return sampled_output_gradient(
        likelihood, jnp.asarray(outputs), batch or {}, jax.random.key(seed), scale
    )


class TestLikelihood:
    @pytest.mark.parametrize(
        ('loss_type', 'expected'),
        [
            ('SOFTMAX_CROSS_ENTROPY', Likelihood.CATEGORICAL),
            ('SIGMOID_CROSS_ENTROPY', Likelihood.BERNOULLI),
            ('MEAN_SQUARED_ERROR', Likelihood.GAUSSIAN),
            ('CTC_LOSS', None),
            ('MEAN_ABSOLUTE_ERROR', None),
        ],
    )
    def test_by_loss_type(self, loss_type, expected):
        assert hasattr(spec.LossType, loss_type)
        assert likelihood_of(loss_type, jnp.zeros((N, C)), {}) is expected

    @pytest.mark.parametrize(
        ('outputs', 'weights'),
        [((N, C), (N,)), ((N, T, C), (N, T)), ((N, C), (N, 1))],
        ids=['examples', 'positions', 'column'],
    )
    def test_softmax_with_weights_of_its_terms(self, outputs, weights):
        batch = {'weights': np.ones(weights)}
        found = likelihood_of('SOFTMAX_CROSS_ENTROPY', jnp.zeros(outputs), batch)
        assert found is Likelihood.CATEGORICAL

    def test_softmax_with_a_weight_for_each_output_is_not_one(self):
        """AlgoPerf's ogbg says softmax; its loss is a masked sigmoid."""
        batch = {'weights': np.ones((N, C))}
        found = likelihood_of('SOFTMAX_CROSS_ENTROPY', jnp.zeros((N, C)), batch)
        assert found is Likelihood.BERNOULLI

    @pytest.mark.parametrize('kind', [tuple, list, lambda pair: dict(enumerate(pair))])
    def test_outputs_that_are_not_an_array(self, kind):
        """Speech models return logits with their paddings."""
        outputs = kind((jnp.zeros((N, T, C)), jnp.zeros((N, T))))
        assert likelihood_of('SOFTMAX_CROSS_ENTROPY', outputs, {}) is None

    def test_while_it_is_compiled(self):
        found = []

        def step(outputs):
            found.append(likelihood_of('SOFTMAX_CROSS_ENTROPY', outputs, {}))

        jax.jit(step)(jnp.zeros((N, C)))
        assert found == [Likelihood.CATEGORICAL]


class TestGradient:
    @pytest.mark.parametrize('shape', [(N, C), (N, T, C)])
    def test_categorical_is_that_of_some_label(self, shape):
        outputs = double(*shape)
        found = _sample(Likelihood.CATEGORICAL, outputs)
        labels = (jax.nn.softmax(outputs) - found).argmax(-1)

        def loss(outputs):
            losses = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
            return losses.sum()

        np.testing.assert_allclose(found, jax.grad(loss)(outputs), **CLOSE)

    def test_bernoulli_is_that_of_some_labels(self):
        outputs = double(N, C)
        found = _sample(Likelihood.BERNOULLI, outputs)
        labels = jnp.round(jax.nn.sigmoid(outputs) - found)

        def loss(outputs):
            return optax.sigmoid_binary_cross_entropy(outputs, labels).sum()

        np.testing.assert_allclose(found, jax.grad(loss)(outputs), **CLOSE)
        assert set(np.unique(labels)) == {0.0, 1.0}

    @pytest.mark.parametrize('scale', [0.5, 3.0])
    def test_variance_of_gaussian(self, scale):
        """The mean square is the Hessian of the squared error, twice its scale."""
        found = _sample(Likelihood.GAUSSIAN, np.zeros(20_000), scale=scale)
        assert (found**2).mean() == pytest.approx(2 * scale, rel=0.05)
        assert found.mean() == pytest.approx(0.0, abs=0.1)

    @pytest.mark.parametrize('likelihood', Likelihood)
    def test_frequencies_follow_the_prediction(self, likelihood):
        """The mean gradient of the sampled labels vanishes."""
        outputs = np.broadcast_to(double(1, C), (20_000, C))
        assert abs(_sample(likelihood, outputs).mean(0)).max() < 0.05

    @pytest.mark.parametrize('likelihood', Likelihood)
    def test_the_key_decides(self, likelihood):
        outputs = double(N, C)
        first, again = _sample(likelihood, outputs), _sample(likelihood, outputs)
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, _sample(likelihood, outputs, seed=1))

    @pytest.mark.parametrize('likelihood', Likelihood)
    @pytest.mark.parametrize('dtype', ['bfloat16', 'float32', 'float64'])
    def test_shape_and_type_of_the_outputs(self, likelihood, dtype):
        outputs = jnp.asarray(double(N, T, C), dtype)
        found = _sample(likelihood, outputs, {'weights': np.ones((N, T), bool)})
        assert found.shape == outputs.shape
        assert found.dtype == dtype

    @pytest.mark.parametrize('likelihood', Likelihood)
    @pytest.mark.parametrize('shape', [(N,), (N, T), (N, T, C)])
    def test_weights_cover_the_outputs_of_their_terms(self, likelihood, shape):
        outputs = double(N, T, C)
        weights = (double(*shape, seed=1) > 0) * 4.0
        weighted = _sample(likelihood, outputs, {'weights': weights})
        plain = _sample(likelihood, outputs)
        roots = np.sqrt(weights).reshape(*shape, *[1] * (3 - len(shape)))
        np.testing.assert_allclose(weighted, plain * roots, **CLOSE)
        assert 0 in weights


class TestSquaredErrorScale:
    @pytest.mark.parametrize('scale', [0.5, 2.5])
    @pytest.mark.parametrize('shape', [(N,), (N, C), (N, 2, 2)])
    def test_measured_at_the_loss(self, scale, shape):
        class Workload:
            def loss_fn(self, label_batch, logits_batch):
                error = scale * (label_batch - logits_batch) ** 2
                return {'summed': error.sum()}

        found = squared_error_scale(Workload(), jnp.asarray(double(*shape)))
        assert float(found) == pytest.approx(scale)
