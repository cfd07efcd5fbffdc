"""Directions of steepest descent under the spectral norm, in both frameworks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from submission.jax import spectral as jax_spectral
from submission.pytorch import spectral
from submission.pytorch.inverses import DampedInverse, with_roots
from submission.pytorch.preconditioner import KFACPreconditioner
from submission.settings import Settings
from tests.workloads_overrides.double_precision import double_precision

from .curvature import double
from .test_preconditioner import _spd, _update

SHAPES = [(7, 7), (5, 9), (9, 5), (1, 6), (6, 1)]


def polynomial_of(values):
    """What the iteration makes of singular values, one by one."""
    a, b, c = spectral._POLYNOMIAL
    for _ in range(spectral._ITERATIONS):
        values = a * values + b * values**3 + c * values**5
    return values


def polar(matrices):
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    return left @ right


@pytest.mark.parametrize('shape', SHAPES)
class TestPolarFactors:
    def expected(self, matrices):
        left, values, right = torch.linalg.svd(matrices, full_matrices=False)
        values = values / torch.linalg.vector_norm(values, dim=-1, keepdim=True)
        return left @ (polynomial_of(values)[..., None] * right)

    def test_singular_values_go_through_the_polynomial(self, shape):
        matrices = double(4, *shape)
        found = spectral.polar_factors(matrices)
        torch.testing.assert_close(
            found, self.expected(matrices), rtol=1e-9, atol=1e-10
        )

    def test_in_jax(self, shape):
        matrices = double(4, *shape)
        with double_precision():
            found = jax.jit(jax_spectral.polar_factors)(matrices.numpy())
            batched = jax_spectral._wide_polar_factors(
                jnp.asarray(matrices.numpy() if shape[0] <= shape[1] else matrices.mT)
            )
        np.testing.assert_allclose(
            found, self.expected(matrices), rtol=1e-9, atol=1e-10
        )
        # What other devices than a CPU run.
        if shape[0] > shape[1]:
            batched = batched.swapaxes(1, 2)
        np.testing.assert_allclose(batched, found, rtol=1e-9, atol=1e-10)

    def test_scale_does_not_matter_and_nothing_stays_nothing(self, shape):
        matrices = double(3, *shape)
        found = spectral.polar_factors(1e-12 * matrices)
        torch.testing.assert_close(found, spectral.polar_factors(matrices))
        assert not spectral.polar_factors(0 * matrices).any()
        assert not jnp.any(jax_spectral.polar_factors(jnp.zeros((2, *shape))))


def test_singular_values_end_near_one():
    # Those below a thousandth of the norm are not worth more steps.
    values = polynomial_of(torch.logspace(-3, 0, 1000, dtype=torch.float64))
    assert 0.68 < values.min() < values.max() < 1.21


def make_preconditioner(model):
    settings = Settings(damping=0.1, first_order_rule='spectral')
    return KFACPreconditioner(model, settings)


def make_model():
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            'one': nn.Linear(5, 4),
            'other': nn.Linear(5, 4),
            'plain': nn.Linear(3, 6, bias=False),
            'grouped': nn.Conv2d(4, 6, 3, groups=2),
        }
    ).double()


def make_momenta(preconditioner):
    return [
        (layer, [double(*p.shape, seed=n) for p in layer.parameters])
        for n, layer in enumerate(preconditioner.layers)
    ]


@pytest.fixture
def preconditioner():
    preconditioner = make_preconditioner(make_model())
    _update(
        preconditioner,
        {
            layer.name: (
                _spd(layer.groups, layer.input_dim, seed=2 * n),
                _spd(layer.groups, layer.output_dim, seed=2 * n + 1),
            )
            for n, layer in enumerate(preconditioner.layers)
        },
    )
    preconditioner.update_inverses()
    return preconditioner


def square_root(matrices, power):
    values, vectors = torch.linalg.eigh(matrices)
    return vectors @ (values[..., None] ** power * vectors.mT)


def inverses_of(preconditioner, layer):
    sides = preconditioner.state_dict()['layers'][layer.name]
    return sides['a']['inverse'], sides['b']['inverse']


def test_directions_against_the_definition(preconditioner, monkeypatch):
    """With symmetric roots, where the code has triangular ones."""
    monkeypatch.setattr(spectral, 'polar_factors', polar)
    momenta = make_momenta(preconditioner)
    found = preconditioner.spectral_directions(momenta)
    for (layer, parts), direction in zip(momenta, found, strict=True):
        inverse_a, inverse_b = inverses_of(preconditioner, layer)
        root_a, root_b = (square_root(x, 0.5) for x in (inverse_a, inverse_b))
        expected = root_b @ polar(root_b @ layer.to_matrix(parts) @ root_a) @ root_a
        expected = expected * (0.2 / expected.square().mean().sqrt())
        torch.testing.assert_close(layer.to_matrix(direction), expected)


def test_no_direction_of_the_same_norm_goes_down_faster(preconditioner, monkeypatch):
    monkeypatch.setattr(spectral, 'polar_factors', polar)
    layer, parts = make_momenta(preconditioner)[0]
    (direction,) = preconditioner.spectral_directions([(layer, parts)])
    momentum, direction = layer.to_matrix(parts), layer.to_matrix(direction)
    inverse_a, inverse_b = inverses_of(preconditioner, layer)
    metric_a, metric_b = (square_root(x, -0.5) for x in (inverse_a, inverse_b))

    def slope(u):
        norm = torch.linalg.matrix_norm(metric_b @ u @ metric_a, ord=2)
        return ((momentum * u).sum() / norm).item()

    steepest = slope(direction)
    for seed in range(200):
        other = direction + 0.1 * direction.norm() * double(*direction.shape, seed=seed)
        assert slope(other) < steepest
    # Neither the gradient nor K-FAC's own direction.
    assert slope(momentum) < 0.99 * steepest
    assert slope(inverse_b @ momentum @ inverse_a) < 0.99 * steepest


def test_sides_without_an_inverse_count_as_the_identity(monkeypatch):
    monkeypatch.setattr(spectral, 'polar_factors', polar)
    preconditioner = make_preconditioner(make_model())
    momenta = make_momenta(preconditioner)
    found = preconditioner.spectral_directions(momenta)
    for (layer, parts), direction in zip(momenta, found, strict=True):
        expected = polar(layer.to_matrix(parts))
        expected = expected * (0.2 / expected.square().mean().sqrt())
        torch.testing.assert_close(layer.to_matrix(direction), expected)


def test_no_momentum_no_direction(preconditioner):
    momenta = [
        (layer, [0 * part for part in parts])
        for layer, parts in make_momenta(preconditioner)
    ]
    for direction in preconditioner.spectral_directions(momenta):
        assert not any(part.any() for part in direction)


def test_directions_follow_new_inverses_and_a_checkpoint(preconditioner):
    momenta = make_momenta(preconditioner)
    first = preconditioner.spectral_directions(momenta)
    restored = make_preconditioner(make_model())
    restored.load_state_dict(preconditioner.state_dict())
    for found, expected in zip(
        restored.spectral_directions(momenta), first, strict=True
    ):
        assert all(map(torch.equal, found, expected))
    _update(
        preconditioner,
        {
            layer.name: (
                _spd(layer.groups, layer.input_dim, seed=77),
                _spd(layer.groups, layer.output_dim, seed=78),
            )
            for layer in preconditioner.layers
        },
    )
    preconditioner.update_inverses()
    for found, old in zip(
        preconditioner.spectral_directions(momenta), first, strict=True
    ):
        assert not torch.allclose(found[0], old[0])


def test_an_inverse_without_a_root_has_not_succeeded():
    good, bad = _spd(2, 4, seed=0), -_spd(2, 4, seed=1)
    yes, scale = torch.tensor(True), torch.ones(())
    found = with_roots([DampedInverse(x, scale, yes) for x in (good, bad)])
    assert [bool(inverse.succeeded) for inverse in found] == [True, False]
    root = found[0].root
    torch.testing.assert_close(root.mT @ root, good)
