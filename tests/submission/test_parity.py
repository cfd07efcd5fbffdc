"""PyTorch and JAX give the same numbers: one K-FAC, two frameworks.

Both train the offline workloads' models, small, from the same parameters on the same
batches with the same sampled labels, in double precision.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from submission import fan_in, jax_submission, pytorch_submission
from submission.jax import labels as jax_labels
from submission.jax import naming
from submission.likelihood import Likelihood
from submission.pytorch import labels as pytorch_labels
from tests.submission import training
from tests.submission.jax import training as jax_training
from tests.workloads_overrides.double_precision import double_precision
from tests.workloads_overrides.small_models import (
    BATCH_SIZE,
    HYPERPARAMETERS,
    SmallGNN,
    SmallViT,
)
from workloads_overrides import flax_parameters
from workloads_overrides.imagenet_vit_fashion_mnist import (
    jax_workload as jax_vit,
)
from workloads_overrides.imagenet_vit_fashion_mnist import (
    pytorch_workload as pytorch_vit,
)
from workloads_overrides.ogbg_chembl import jax_workload as jax_gnn
from workloads_overrides.ogbg_chembl import pytorch_workload as pytorch_gnn


class PyTorchGNN(SmallGNN, pytorch_gnn.OgbgChemblWorkload):
    pass


class JaxGNN(SmallGNN, jax_gnn.OgbgChemblWorkload):
    pass


class PyTorchViT(SmallViT, pytorch_vit.ImagenetVitFashionMnistWorkload):
    pass


class JaxViT(SmallViT, jax_vit.ImagenetVitFashionMnistWorkload):
    pass


@pytest.fixture(autouse=True)
def _double_precision():
    # Also while a model is built, for its constants.
    torch.set_default_dtype(torch.float64)
    with double_precision():
        yield
    torch.set_default_dtype(torch.float32)


@functools.cache
def uniforms(shape):
    return np.random.default_rng(0).uniform(size=shape)


def pytorch_gradient(likelihood, outputs, batch, generator, scale=1.0):
    """Labels by comparing probabilities with fixed numbers."""
    outputs = outputs.detach()
    if likelihood is Likelihood.BERNOULLI:
        probabilities = torch.sigmoid(outputs)
        drawn = torch.from_numpy(uniforms(tuple(outputs.shape))) < probabilities
        return (probabilities - drawn.double()) * batch['weights'].double().sqrt()
    probabilities = torch.softmax(outputs, -1)
    points = torch.from_numpy(uniforms((len(outputs), 1)))
    drawn = (probabilities.cumsum(-1) < points).sum(-1)
    return probabilities - torch.nn.functional.one_hot(drawn, outputs.shape[-1])


def jax_gradient(likelihood, outputs, batch, rng, scale=1.0):
    if likelihood is Likelihood.BERNOULLI:
        probabilities = jax.nn.sigmoid(outputs)
        drawn = uniforms(outputs.shape) < probabilities
        return (probabilities - drawn) * jnp.sqrt(batch['weights'].astype(jnp.float64))
    probabilities = jax.nn.softmax(outputs)
    drawn = (probabilities.cumsum(-1) < uniforms((len(outputs), 1))).sum(-1)
    return probabilities - jax.nn.one_hot(drawn, outputs.shape[-1])


@pytest.fixture(autouse=True)
def _same_labels(monkeypatch):
    monkeypatch.setattr(pytorch_labels, 'sampled_output_gradient', pytorch_gradient)
    monkeypatch.setattr(jax_labels, 'sampled_output_gradient', jax_gradient)


class Pair:
    """One workload in both frameworks, with the same parameters and batches."""

    def __init__(self, name, **hyperparameters):
        self.is_gnn = name == 'gnn'
        pytorch_class, jax_class = (
            (PyTorchGNN, JaxGNN) if self.is_gnn else (PyTorchViT, JaxViT)
        )
        self.pytorch_workload, self.jax_workload = pytorch_class(), jax_class()
        self.model, _ = self.pytorch_workload.init_model_fn([1, 2])
        self.model.double()
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            # A head of zeros would hide all curvature below it.
            for parameter in self.model.parameters():
                parameter.add_(
                    0.1 * torch.randn(parameter.shape, generator=generator).double()
                )
        self.jax_workload.init_model_fn(jax.random.PRNGKey(0))
        self.names = [name for name, _ in self.model.named_parameters()]
        self.params = jax.tree.map(jnp.asarray, self.to_flax(self.model.state_dict()))
        self.hyperparameters = {**HYPERPARAMETERS, **hyperparameters}
        self.pytorch_state = pytorch_submission.init_optimizer_state(
            self.pytorch_workload, self.model, None, self.hyperparameters, [1, 2]
        )
        self.jax_state = jax_submission.init_optimizer_state(
            self.jax_workload,
            self.params,
            None,
            self.hyperparameters,
            jax.random.PRNGKey(0),
        )
        # Before the first step, which takes the arrays over.
        self.params = jax.tree.map(jnp.array, self.params)
        key = [7, 8]
        self.pytorch_queue = self.pytorch_workload._build_input_queue(
            key, 'train', None, BATCH_SIZE
        )
        self.jax_queue = self.jax_workload._build_input_queue(
            key, 'train', None, BATCH_SIZE
        )

    def to_flax(self, state_dict):
        if self.is_gnn:
            return flax_parameters.gnn_params(state_dict)
        return flax_parameters.vit_params(state_dict, num_heads=2)

    def to_pytorch(self, params):
        convert = (
            flax_parameters.gnn_state_dict
            if self.is_gnn
            else flax_parameters.vit_state_dict
        )
        return convert(params, self.names)

    def path(self, layer):
        if not self.is_gnn:
            return '/'.join(flax_parameters.vit_path(layer))
        if layer == 'decoder':
            return flax_parameters.gnn_decoder(SmallGNN.num_message_passing_steps)
        return '/'.join(flax_parameters.gnn_path(layer))

    def step(self, global_step):
        pytorch_batch = jax.tree.map(
            lambda x: x.double() if x.is_floating_point() else x,
            dict(next(self.pytorch_queue)),
        )
        jax_batch = jax.tree.map(
            lambda x: x.astype(np.float64) if x.dtype == np.float32 else x,
            dict(next(self.jax_queue)),
        )
        self.pytorch_state, self.model, _ = pytorch_submission.update_params(
            self.pytorch_workload,
            self.model,
            None,
            None,
            self.hyperparameters,
            pytorch_batch,
            self.pytorch_workload.loss_type,
            self.pytorch_state,
            [],
            global_step,
            [1, 2],
        )
        self.jax_state, self.params, _ = jax_submission.update_params(
            self.jax_workload,
            self.params,
            None,
            None,
            self.hyperparameters,
            jax_batch,
            self.jax_workload.loss_type,
            self.jax_state,
            [],
            global_step,
            jax.random.PRNGKey(1),
        )

    def prepare_for_eval(self):
        """Both models hold what is evaluated."""
        training.prepare_for_eval(self.pytorch_state, self.model)
        _, self.params, _ = jax_training.prepare_for_eval(
            self.jax_state, self.params, None
        )

    def factors(self):
        """Yields layer, side, and the average of the factor in both frameworks."""
        layers = self.pytorch_state['preconditioner'].state_dict()['layers']
        for layer, sides in layers.items():
            for side in 'ab':
                expected = sides[side]['moving_average']
                factors = self.jax_state[0].kfac.factors
                name = f'{self.path(layer)}/{side}'
                (found,) = factors.stacks.pick(factors.moving_average, [name])
                yield layer, side, expected, np.asarray(found)


APPROXIMATIONS = {
    'expand': {'approximation': 'expand'},
    'reduce, mean inputs': {
        'approximation': 'reduce',
        'reduce_normalisation': 'mean_inputs',
    },
    'reduce, sum inputs': {
        'approximation': 'reduce',
        'reduce_normalisation': 'sum_inputs',
    },
}


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def assert_parameters_agree(pair, tolerance):
    found = pair.to_pytorch(pair.params)
    for name, parameter in pair.model.named_parameters():
        error = relative_error(found[name], parameter.detach().numpy())
        assert error < tolerance, name


def assert_factors_agree(pair):
    seen = 0
    for layer, side, expected, found in pair.factors():
        if expected is None:
            # The gradients of attention keys cancel.
            assert not found.any(), (layer, side)
            continue
        seen += 1
        assert relative_error(found, expected.numpy()) < 1e-10, (layer, side)
    assert seen >= (2 * 9 - 1 if pair.is_gnn else 2 * 8 + 1)


@pytest.mark.parametrize(
    'workload', ['gnn', pytest.param('vit', marks=pytest.mark.slow)]
)
def test_factors_of_a_third_of_the_positions_agree(workload):
    pair = Pair(
        workload, approximation='expand', statistics_stride=3, statistics_interval=1
    )
    # The second update takes other positions than the first.
    for step in range(2):
        pair.step(step)
    assert_factors_agree(pair)


def assert_preconditioned_gradients_agree(pair):
    rng = np.random.default_rng(5)
    gradients = {
        name: rng.normal(size=tuple(parameter.shape))
        for name, parameter in pair.model.named_parameters()
    }
    _, steps = pair.jax_state
    found = pair.to_pytorch(
        naming.unflatten(
            jax.jit(steps.preconditioner.precondition)(
                pair.jax_state[0].kfac,
                naming.flatten(jax.tree.map(jnp.asarray, pair.to_flax(gradients))),
            ),
            pair.params,
        )
    )
    preconditioner = pair.pytorch_state['preconditioner']
    changed = 0
    for layer in preconditioner.layers:
        names = layer.parameter_names
        given = [torch.from_numpy(gradients[name]) for name in names]
        for name, expected in zip(
            names, preconditioner.precondition(layer, given), strict=True
        ):
            assert relative_error(found[name], expected.numpy()) < 1e-8, name
            changed += relative_error(found[name], gradients[name]) > 0.1
    assert changed > 10


@pytest.mark.parametrize(
    ('workload', 'approximation', 'fisher_type'),
    [
        ('gnn', 'expand', 'empirical'),
        ('gnn', 'reduce, sum inputs', 'monte_carlo'),
        # Equal numbers of positions make the normalisations equal but for a factor.
        pytest.param(
            'vit', 'reduce, sum inputs', 'monte_carlo', marks=pytest.mark.slow
        ),
        pytest.param('gnn', 'reduce, sum inputs', 'empirical', marks=pytest.mark.slow),
        pytest.param('vit', 'reduce, sum inputs', 'empirical', marks=pytest.mark.slow),
    ],
)
def test_factors_and_preconditioned_gradients_agree(
    workload, approximation, fisher_type
):
    """The other cases are the first step of the training below."""
    pair = Pair(workload, fisher_type=fisher_type, **APPROXIMATIONS[approximation])
    pair.step(0)
    assert_factors_agree(pair)
    assert_preconditioned_gradients_agree(pair)


@pytest.mark.parametrize(
    ('workload', 'approximation', 'first_order_rule', 'fisher_type'),
    [
        ('gnn', 'expand', 'nadamw', 'monte_carlo'),
        ('gnn', 'reduce, mean inputs', 'nadamw', 'empirical'),
        ('vit', 'expand', 'nadamw', 'monte_carlo'),
        ('vit', 'reduce, mean inputs', 'nadamw', 'monte_carlo'),
        ('vit', 'expand', 'momentum', 'empirical'),
        ('vit', 'reduce, mean inputs', 'grafted', 'empirical'),
        ('vit', 'expand', 'spectral', 'monte_carlo'),
        ('gnn', 'reduce, mean inputs', 'spectral', 'empirical'),
        *(
            pytest.param(*case, 'monte_carlo', marks=pytest.mark.slow)
            for case in (
                ('gnn', 'reduce, mean inputs', 'nadamw'),
                ('vit', 'expand', 'momentum'),
                ('vit', 'reduce, mean inputs', 'grafted'),
                ('gnn', 'reduce, mean inputs', 'momentum'),
                ('gnn', 'expand', 'grafted'),
            )
        ),
    ],
)
def test_parameters_agree_after_training(
    workload, approximation, first_order_rule, fisher_type
):
    pair = Pair(
        workload,
        first_order_rule=first_order_rule,
        fisher_type=fisher_type,
        learning_rate=1e-2 if first_order_rule != 'momentum' else 1e-3,
        **APPROXIMATIONS[approximation],
    )
    before = {name: p.detach().clone() for name, p in pair.model.named_parameters()}
    pair.step(0)
    assert_factors_agree(pair)
    assert_preconditioned_gradients_agree(pair)
    for global_step in range(1, 25):
        pair.step(global_step)
    for name, parameter in pair.model.named_parameters():
        assert relative_error(parameter.detach(), before[name]) > 1e-3, name
    assert_parameters_agree(pair, 1e-6)


def test_parameters_agree_where_wide_layers_learn_less(monkeypatch):
    monkeypatch.setattr(fan_in, 'REFERENCE_FAN_IN', 8)
    pair = Pair('vit', approximation='reduce', fan_in_exponent=1.0)
    for global_step in range(4):
        pair.step(global_step)
    assert_parameters_agree(pair, 1e-6)


def test_averaged_parameters_agree():
    pair = Pair('vit', approximation='reduce', averaging_power=16.0)
    for global_step in range(4):
        pair.step(global_step)
    trained = {name: p.detach().clone() for name, p in pair.model.named_parameters()}
    pair.prepare_for_eval()
    for name, parameter in pair.model.named_parameters():
        assert relative_error(parameter.detach(), trained[name]) > 1e-4, name
    assert_parameters_agree(pair, 1e-6)


@pytest.mark.parametrize('workload', ['gnn', 'vit'])
def test_nadamw_agrees_after_training(workload):
    pair = Pair(workload, approximation='none')
    for global_step in range(25):
        pair.step(global_step)
    assert_parameters_agree(pair, 1e-9)
