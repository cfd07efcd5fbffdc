"""Which distribution labels are sampled from, and the gradients of the samples."""

import pytest
import torch
from torch.nn import functional

from submission.likelihood import Likelihood, likelihood_of
from submission.pytorch.labels import sampled_output_gradient, squared_error_scale
from workloads_overrides import spec
from workloads_overrides.ogbg_chembl.pytorch_workload import OgbgChemblWorkload

from .curvature import double

N, T, C = 6, 3, 4


def _sample(likelihood, outputs, batch=None, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return sampled_output_gradient(likelihood, outputs, batch or {}, generator, scale)


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
        assert likelihood_of(loss_type, torch.zeros(N, C), {}) is expected

    @pytest.mark.parametrize(
        ('outputs', 'weights'),
        [((N, C), (N,)), ((N, T, C), (N, T)), ((N, C), (N, 1))],
        ids=['examples', 'positions', 'column'],
    )
    def test_softmax_with_weights_of_its_terms(self, outputs, weights):
        batch = {'weights': torch.ones(weights)}
        found = likelihood_of('SOFTMAX_CROSS_ENTROPY', torch.zeros(outputs), batch)
        assert found is Likelihood.CATEGORICAL

    def test_softmax_with_a_weight_for_each_output_is_not_one(self):
        """AlgoPerf's ogbg says softmax; its loss is a masked sigmoid."""
        batch = {'weights': torch.ones(N, C)}
        found = likelihood_of('SOFTMAX_CROSS_ENTROPY', torch.zeros(N, C), batch)
        assert found is Likelihood.BERNOULLI

    @pytest.mark.parametrize(
        ('outputs', 'targets', 'expected'),
        [
            ((N, C), (N,), Likelihood.CATEGORICAL),
            ((N, C), (N, C), Likelihood.CATEGORICAL),
            ((N, T, C), (N, T), Likelihood.CATEGORICAL),
            ((N, C, T), (N, T), None),
            ((N, C, T, 2), (N, T, 2), None),
        ],
    )
    def test_classes_along_another_axis(self, outputs, targets, expected):
        """As PyTorch's own cross entropy has them for images."""
        batch = {'targets': torch.zeros(targets, dtype=torch.long)}
        found = likelihood_of('SOFTMAX_CROSS_ENTROPY', torch.zeros(outputs), batch)
        assert found is expected

    def test_outputs_that_are_not_a_tensor(self):
        """Speech models return logits with their paddings."""
        outputs = (torch.zeros(N, T, C), torch.zeros(N, T))
        assert likelihood_of('SOFTMAX_CROSS_ENTROPY', outputs, {}) is None

    def test_the_molecule_workload_declares_what_algoperf_does(self):
        workload = OgbgChemblWorkload()
        batch = {'weights': torch.ones(N, 128)}
        found = likelihood_of(workload.loss_type.name, torch.zeros(N, 128), batch)
        assert workload.loss_type is spec.LossType.SOFTMAX_CROSS_ENTROPY
        assert found is Likelihood.BERNOULLI


class TestGradient:
    @pytest.mark.parametrize('shape', [(N, C), (N, T, C)])
    def test_categorical_is_that_of_some_label(self, shape):
        outputs = double(*shape).requires_grad_()
        found = _sample(Likelihood.CATEGORICAL, outputs)
        labels = (functional.softmax(outputs, -1) - found).argmax(-1)
        loss = functional.cross_entropy(
            outputs.flatten(0, -2), labels.flatten(), reduction='sum'
        )
        torch.testing.assert_close(found, torch.autograd.grad(loss, outputs)[0])

    def test_bernoulli_is_that_of_some_labels(self):
        outputs = double(N, C).requires_grad_()
        found = _sample(Likelihood.BERNOULLI, outputs)
        labels = (torch.sigmoid(outputs) - found).detach().round()
        loss = functional.binary_cross_entropy_with_logits(
            outputs, labels, reduction='sum'
        )
        torch.testing.assert_close(found, torch.autograd.grad(loss, outputs)[0])
        assert set(labels.unique().tolist()) == {0.0, 1.0}

    @pytest.mark.parametrize('scale', [0.5, 1.0, 3.0])
    def test_variance_of_gaussian(self, scale):
        """The mean square is the Hessian of the squared error, twice its scale."""
        outputs = torch.zeros(20_000, dtype=torch.float64)
        found = _sample(Likelihood.GAUSSIAN, outputs, scale=scale)
        assert found.square().mean() == pytest.approx(2 * scale, rel=0.05)
        assert found.mean() == pytest.approx(0.0, abs=0.1)

    @pytest.mark.parametrize('likelihood', Likelihood)
    def test_frequencies_follow_the_prediction(self, likelihood):
        """The mean gradient of the sampled labels vanishes."""
        outputs = double(1, C).expand(20_000, C)
        assert _sample(likelihood, outputs).mean(0).abs().max() < 0.05

    @pytest.mark.parametrize('likelihood', Likelihood)
    def test_the_generator_decides(self, likelihood):
        outputs = double(N, C)
        torch.manual_seed(5)
        state = torch.get_rng_state()
        first, again = _sample(likelihood, outputs), _sample(likelihood, outputs)
        torch.testing.assert_close(first, again, rtol=0, atol=0)
        assert not torch.equal(first, _sample(likelihood, outputs, seed=1))
        assert torch.equal(torch.get_rng_state(), state)

    @pytest.mark.parametrize('likelihood', Likelihood)
    @pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
    def test_shape_and_type_of_the_outputs(self, likelihood, dtype):
        outputs = double(N, T, C).to(dtype).requires_grad_()
        weights = torch.ones(N, T, dtype=torch.bool)
        found = _sample(likelihood, outputs, {'weights': weights})
        assert found.shape == outputs.shape
        assert found.dtype == dtype
        assert not found.requires_grad

    @pytest.mark.parametrize('likelihood', Likelihood)
    @pytest.mark.parametrize('shape', [(N,), (N, T), (N, T, C)])
    def test_weights_cover_the_outputs_of_their_terms(self, likelihood, shape):
        outputs = double(N, T, C)
        weights = (double(*shape, seed=1) > 0).double() * 4
        weighted = _sample(likelihood, outputs, {'weights': weights})
        plain = _sample(likelihood, outputs)
        roots = weights.sqrt().reshape(*shape, *[1] * (3 - len(shape)))
        torch.testing.assert_close(weighted, plain * roots)
        assert 0 in weights

    def test_a_column_of_weights(self):
        outputs, weights = double(N, C), torch.ones(N, 1)
        found = _sample(Likelihood.CATEGORICAL, outputs, {'weights': 4 * weights})
        torch.testing.assert_close(found, 2 * _sample(Likelihood.CATEGORICAL, outputs))

    @pytest.mark.parametrize(
        ('outputs', 'weights'), [((N,), (N, 1)), ((N, C), (N + 1,)), ((N, C), (C, C))]
    )
    def test_weights_that_do_not_fit(self, outputs, weights):
        with pytest.raises(ValueError, match=r'weights of shape .* do not fit'):
            _sample(
                Likelihood.BERNOULLI, double(*outputs), {'weights': double(*weights)}
            )


class TestSquaredErrorScale:
    @pytest.mark.parametrize('scale', [0.5, 1.0, 2.5])
    @pytest.mark.parametrize('shape', [(N,), (N, C), (N, 2, 2)])
    def test_measured_at_the_loss(self, scale, shape):
        class Workload:
            def loss_fn(self, label_batch, logits_batch):
                error = scale * (label_batch - logits_batch).square()
                return {'summed': error.sum()}

        assert squared_error_scale(Workload(), double(*shape)) == pytest.approx(scale)
