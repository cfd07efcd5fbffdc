"""Directions of steepest descent under the spectral norm, in both frameworks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as flax_nn
from torch import nn

from submission.jax import inverses as jax_inverses
from submission.jax import products as jax_products
from submission.jax import spectral as jax_spectral
from submission.jax.capture import find_applications
from submission.jax.factors import KroneckerFactors
from submission.jax.first_order import FirstOrderOptimizer as JaxOptimizer
from submission.jax.preconditioner import KFACPreconditioner as JaxPreconditioner
from submission.pytorch import preconditioner as preconditioner_module
from submission.pytorch import spectral
from submission.pytorch.inverses import damped_inverses
from submission.pytorch.preconditioner import KFACPreconditioner
from submission.settings import Settings
from submission.spectral import ITERATIONS, POLYNOMIAL
from tests.workloads_overrides.double_precision import double_precision

from .curvature import double
from .test_preconditioner import _spd, _update

SHAPES = [(7, 7), (5, 9), (9, 5), (1, 6), (6, 1)]


def polynomial_of(values):
    """What the iteration makes of singular values, one by one."""
    a, b, c = POLYNOMIAL
    for _ in range(ITERATIONS):
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
        np.testing.assert_allclose(
            found, self.expected(matrices), rtol=1e-9, atol=1e-10
        )

    def test_scale_does_not_matter_and_nothing_stays_nothing(self, shape):
        matrices = double(3, *shape)
        found = spectral.polar_factors(1e-12 * matrices)
        torch.testing.assert_close(found, spectral.polar_factors(matrices))
        assert not spectral.polar_factors(0 * matrices).any()
        assert not jnp.any(jax_spectral.polar_factors(jnp.zeros((2, *shape))))


@pytest.mark.parametrize('shape', SHAPES)
def test_one_after_the_other_as_all_at_once_in_jax(shape):
    """What a CPU runs, and what other devices do."""
    n, groups, (rows, columns) = 3, 2, shape
    stacks = [
        double(n, groups, *of_one, seed=seed).numpy()
        for seed, of_one in enumerate([shape, (columns, columns), (rows, rows)])
    ]
    with double_precision():
        together = jax_spectral._steepest(*map(jnp.asarray, stacks))
        apart = jax_products.in_turn_on_cpus(jax_spectral._steepest, *stacks)
    np.testing.assert_allclose(apart, together, rtol=1e-9, atol=1e-10)


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
    return {
        name: double(*parameter.shape, seed=n)
        for n, layer in enumerate(preconditioner.layers)
        for name, parameter in zip(layer.parameter_names, layer.parameters, strict=True)
    }


def directions_of(preconditioner, momenta, gradients=None):
    return preconditioner.spectral_directions(
        preconditioner.layers, momenta, momenta if gradients is None else gradients
    )


def matrix_of(layer, named):
    return layer.to_matrix([named[name] for name in layer.parameter_names])


def take_factors(preconditioner, first_seed=0):
    """Moves the averages to random factors, and inverts."""
    factors = {
        layer.name: (
            _spd(layer.groups, layer.input_dim, seed=first_seed + 2 * n),
            _spd(layer.groups, layer.output_dim, seed=first_seed + 2 * n + 1),
        )
        for n, layer in enumerate(preconditioner.layers)
    }
    _update(preconditioner, factors)
    preconditioner.update_inverses()


@pytest.fixture
def preconditioner():
    preconditioner = make_preconditioner(make_model())
    take_factors(preconditioner)
    return preconditioner


def square_root(matrices, power):
    values, vectors = torch.linalg.eigh(matrices)
    return vectors @ (values[..., None] ** power * vectors.mT)


def inverses_of(preconditioner, layer):
    sides = preconditioner.state_dict()['layers'][layer.name]
    roots = [sides[side]['inverse_root'] for side in 'ab']
    return tuple(root.mT @ root for root in roots)


def test_directions_against_the_definition(preconditioner, monkeypatch):
    """With symmetric roots, where the code has triangular ones."""
    monkeypatch.setattr(spectral, 'polar_factors', polar)
    momenta = make_momenta(preconditioner)
    found = directions_of(preconditioner, momenta)
    assert found.keys() == momenta.keys()
    for layer in preconditioner.layers:
        inverse_a, inverse_b = inverses_of(preconditioner, layer)
        root_a, root_b = (square_root(x, 0.5) for x in (inverse_a, inverse_b))
        expected = root_b @ polar(root_b @ matrix_of(layer, momenta) @ root_a) @ root_a
        expected = expected * (0.2 / expected.square().mean().sqrt())
        torch.testing.assert_close(matrix_of(layer, found), expected)


def test_layers_together_come_out_as_each_by_itself(preconditioner):
    momenta = make_momenta(preconditioner)
    found = directions_of(preconditioner, momenta)
    for layer in preconditioner.layers:
        alone = preconditioner.spectral_directions([layer], momenta, momenta)
        for name in layer.parameter_names:
            torch.testing.assert_close(found[name], alone[name])


def test_no_direction_of_the_same_norm_goes_down_faster(preconditioner, monkeypatch):
    monkeypatch.setattr(spectral, 'polar_factors', polar)
    momenta, layer = make_momenta(preconditioner), preconditioner.layers[0]
    momentum = matrix_of(layer, momenta)
    direction = matrix_of(layer, directions_of(preconditioner, momenta))
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
    found = directions_of(preconditioner, momenta)
    for layer in preconditioner.layers:
        expected = polar(matrix_of(layer, momenta))
        expected = expected * (0.2 / expected.square().mean().sqrt())
        torch.testing.assert_close(matrix_of(layer, found), expected)


def test_layers_with_and_without_a_root_are_apart(preconditioner):
    """As from a checkpoint of another rule, and a factorisation that then failed."""
    momenta = make_momenta(preconditioner)
    expected = directions_of(preconditioner, momenta)
    state = preconditioner.state_dict()
    state['layers']['other']['a']['inverse_root'] = None
    restored = make_preconditioner(make_model())
    restored.load_state_dict(state)
    found = directions_of(restored, momenta)
    changed = {n for n in found if not torch.allclose(found[n], expected[n])}
    assert changed == {'other.weight', 'other.bias'}


def test_a_layer_without_a_gradient_stands_still(preconditioner):
    momenta = make_momenta(preconditioner)
    gradients = {
        name: 0 * momentum if name.startswith('one') else momentum
        for name, momentum in momenta.items()
    }
    found = directions_of(preconditioner, momenta, gradients)
    still = {name for name, direction in found.items() if not direction.any()}
    assert still == {'one.weight', 'one.bias'}
    nothing = {name: 0 * momentum for name, momentum in momenta.items()}
    for direction in directions_of(preconditioner, nothing, momenta).values():
        assert not direction.any()


def test_a_bias_without_a_gradient_is_left_out(preconditioner):
    momenta = make_momenta(preconditioner)
    with_zeros = {**momenta, 'one.bias': 0 * momenta['one.bias']}
    expected = directions_of(preconditioner, with_zeros)
    del momenta['one.bias']
    found = directions_of(preconditioner, momenta)
    assert found.keys() == momenta.keys()
    for name, direction in found.items():
        torch.testing.assert_close(direction, expected[name])


def test_directions_follow_new_inverses_and_a_checkpoint(preconditioner):
    momenta = make_momenta(preconditioner)
    first = directions_of(preconditioner, momenta)
    restored = make_preconditioner(make_model())
    restored.load_state_dict(preconditioner.state_dict())
    for name, direction in directions_of(restored, momenta).items():
        assert torch.equal(direction, first[name])
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
    for name, direction in directions_of(preconditioner, momenta).items():
        assert not torch.allclose(direction, first[name])


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_parameters_of_lower_precision(preconditioner, dtype):
    momenta = make_momenta(preconditioner)
    expected = directions_of(preconditioner, momenta)
    lower = {name: momentum.to(dtype) for name, momentum in momenta.items()}
    model = make_model().to(dtype)
    half = make_preconditioner(model)
    _update(
        half,
        {
            layer.name: (
                _spd(layer.groups, layer.input_dim, seed=2 * n).float(),
                _spd(layer.groups, layer.output_dim, seed=2 * n + 1).float(),
            )
            for n, layer in enumerate(half.layers)
        },
    )
    half.update_inverses()
    for name, direction in directions_of(half, lower).items():
        assert direction.dtype == dtype
        error = torch.linalg.norm(direction.double() - expected[name])
        assert error < 0.03 * torch.linalg.norm(expected[name])


@pytest.mark.parametrize('exponent', range(-44, -10, 2))
def test_small_momenta_have_directions_too(exponent):
    """Squares of such numbers are not there in single precision."""
    matrices = double(2, 64, 65).float()
    small = matrices * 10.0**exponent
    expected = spectral.polar_factors(matrices)
    outcomes = (
        spectral.polar_factors(small),
        torch.from_numpy(np.array(jax_spectral.polar_factors(small.numpy()))),
    )
    for found in outcomes:
        if exponent > -36:
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        else:
            # Hardly numbers any more.
            assert torch.isfinite(found).all()
            assert found.abs().max() < 2


def test_roots_are_those_of_the_inverses():
    factors = [_spd(2, 4, seed=0), _spd(1, 3, seed=1), _spd(2, 4, seed=2)]
    without = damped_inverses([factor.clone() for factor in factors], 0.1)
    for found, expected in zip(
        damped_inverses(factors, 0.1, as_roots=True), without, strict=True
    ):
        root = found.matrix
        assert not root.triu(1).any()
        torch.testing.assert_close(root.mT @ root, expected.matrix)
        torch.testing.assert_close(found.scale, expected.scale)


def test_roots_in_jax():
    """In single precision where double is on, padded, of good factors alone."""
    factors = [_spd(2, 4, seed=0), _spd(2, 3, seed=1), -_spd(2, 4, seed=2)]
    stack = np.zeros((3, 2, 4, 4), np.float32)
    for n, factor in enumerate(factors):
        size = factor.shape[-1]
        stack[n, :, :size, :size] = factor
    with double_precision():
        roots, _, succeeded = jax_inverses.damped_inverses(
            jnp.asarray(stack), np.array([4, 3, 4]), 0.1, as_roots=True
        )
        assert roots.dtype == jnp.float32
    assert succeeded.tolist() == [True, True, False]
    for n, expected in enumerate(damped_inverses(factors[:2], 0.1, as_roots=True)):
        size = expected.matrix.shape[-1]
        np.testing.assert_allclose(
            roots[n, :, :size, :size], expected.matrix, rtol=1e-4, atol=1e-5
        )


def gradients_of(preconditioner):
    momenta = make_momenta(preconditioner)
    return [
        (layer, [momenta[name] for name in layer.parameter_names])
        for layer in preconditioner.layers
    ]


def assert_preconditions_alike(one, other):
    pairs = zip(
        one.precondition_all(gradients_of(one)),
        other.precondition_all(gradients_of(other)),
        strict=True,
    )
    for parts, others in pairs:
        for part, expected in zip(parts, others, strict=True):
            torch.testing.assert_close(part, expected)


@pytest.mark.parametrize('stacked', [False, True])
class TestRootsAndInverses:
    @pytest.fixture(autouse=True)
    def _where_stacks_gain(self, monkeypatch, stacked):
        monkeypatch.setattr(
            preconditioner_module, 'gains_from_stacks', lambda layer: stacked
        )

    @pytest.fixture
    def plain(self):
        """Keeps inverses, of the factors of `preconditioner`."""
        plain = KFACPreconditioner(make_model(), Settings(damping=0.1))
        take_factors(plain)
        return plain

    def test_gradients_are_preconditioned_with_roots_too(self, preconditioner, plain):
        assert_preconditions_alike(preconditioner, plain)

    def test_a_rule_that_keeps_inverses_takes_over_roots(self, preconditioner, plain):
        take_factors(plain, first_seed=40)
        plain.load_state_dict(preconditioner.state_dict())
        assert_preconditions_alike(plain, preconditioner)
        for made in (plain, preconditioner):
            take_factors(made, first_seed=40)
        assert_preconditions_alike(plain, preconditioner)

    @pytest.mark.parametrize('with_roots', [False, True])
    def test_a_rule_that_keeps_roots_takes_over_inverses(
        self, preconditioner, plain, with_roots
    ):
        state = (preconditioner if with_roots else plain).state_dict()
        for name, sides in plain.state_dict()['layers'].items():
            for side, values in sides.items():
                state['layers'][name][side]['inverse'] = values['inverse']
        restored = make_preconditioner(make_model())
        restored.load_state_dict(state)
        assert_preconditions_alike(restored, plain)
        for made in (plain, restored):
            take_factors(made, first_seed=40)
        assert_preconditions_alike(restored, plain)
        for sides in restored.state_dict()['layers'].values():
            assert all(values['inverse'] is None for values in sides.values())


def test_gradients_are_preconditioned_with_roots_too_in_jax():
    matrix, factors = double(1, 4, 3, seed=5).numpy(), {}
    for side, size in (('a', 3), ('b', 4)):
        factors[f'layer/{side}'] = _spd(1, size, seed=size).numpy()
    shapes = {name: factor.shape for name, factor in factors.items()}
    found = []
    with double_precision():
        for keeps_roots in (False, True):
            kept = KroneckerFactors.empty(shapes, jnp.float64, keeps_roots)
            kept, _ = kept.update(factors, decay=0.9)
            kept, failed = kept.renew_inverses(damping=0.1)
            assert failed == 0
            inverse_a, inverse_b = (
                kept.inverses_of([f'layer/{side}'])[0] for side in 'ab'
            )
            found.append(inverse_b @ matrix @ inverse_a)
    np.testing.assert_allclose(*found, rtol=1e-9)


def test_no_transformation_in_jax():
    settings = Settings(first_order_rule='spectral')
    preconditioner = JaxPreconditioner({}, {}, settings)
    with pytest.raises(ValueError, match="'spectral' takes the place of"):
        preconditioner.transformation()


def test_a_layer_whose_gradient_ends_stands_still_in_jax():
    settings = Settings(first_order_rule='spectral', weight_decay=0.0)
    model = flax_nn.Dense(8)
    params = model.init(jax.random.key(0), jnp.ones((1, 16)))['params']
    shapes = {name: value.shape for name, value in params.items()}
    preconditioner = JaxPreconditioner(
        shapes,
        find_applications(lambda: model.init(jax.random.key(0), jnp.ones((1, 16)))),
        settings,
    )
    assert len(preconditioner.layers) == 1
    optimizer = JaxOptimizer(settings, preconditioner)
    kfac, state = preconditioner.init(params), optimizer.init(params)
    step = jax.jit(optimizer.step)
    gradients = jax.tree.map(jnp.ones_like, params)
    moved, state, _ = step(params, gradients, state, kfac, 0.1)
    assert not np.array_equal(moved['kernel'], params['kernel'])
    nothing = jax.tree.map(jnp.zeros_like, params)
    for _ in range(500):
        after, state, _ = step(moved, nothing, state, kfac, 0.1)
        jax.tree.map(np.testing.assert_array_equal, after, moved)
