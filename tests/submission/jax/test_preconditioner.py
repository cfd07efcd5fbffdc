"""Averages of factors, damped inverses, and what happens when they go wrong."""

import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from submission.jax.approximations import FactorSums
from submission.jax.capture import find_applications
from submission.jax.factors import KroneckerFactors
from submission.jax.naming import flatten, unflatten
from submission.jax.preconditioner import KFACPreconditioner
from submission.settings import Settings

from .curvature import batch_of, by_layer, double, init

pytestmark = pytest.mark.usefixtures('double_precision')

CLOSE = {'rtol': 1e-9, 'atol': 1e-12}
DIMS = {'first': (6, 4), 'second': (4, 3)}


class Model(nn.Module):
    """Factor B of the first layer is as large as factor A of the second."""

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(4, name='first')(x))
        return nn.LayerNorm(name='norm')(nn.Dense(3, use_bias=False, name='second')(x))


INPUTS = double(6, 5)


def _preconditioner(module=None, inputs=INPUTS, **changes):
    """Returns a preconditioner, its state, and parameters by name."""
    module = Model() if module is None else module
    params = init(module, inputs)
    shapes = {name: p.shape for name, p in flatten(params).items()}
    applications = find_applications(lambda: module.init(jax.random.key(0), inputs))
    preconditioner = KFACPreconditioner(shapes, applications, Settings(**changes))
    return preconditioner, preconditioner.init(params), params


def _spd(groups, dim, seed):
    root = double(groups, dim, dim, seed=seed)
    return root @ root.swapaxes(1, 2) + 0.1 * np.eye(dim)


def _factors(seed, names=('first', 'second')):
    return {
        name: [_spd(1, dim, seed + 50 * side) for side, dim in enumerate(DIMS[name])]
        for name in names
    }


def _sums(factors):
    """Sums that lead to the given factors."""
    return {name: FactorSums(a, jnp.ones(()), b) for name, (a, b) in factors.items()}


def _update(preconditioner, state, factors):
    return jax.jit(preconditioner.update_factors)(state, _sums(factors), 1.0, 1.0)


def _invert(preconditioner, state):
    return jax.jit(preconditioner.update_inverses)(state)


def _mean_eigenvalue(factor):
    return np.trace(factor, axis1=-2, axis2=-1).mean() / factor.shape[-1]


def _damped(factor, damping):
    eye = np.eye(factor.shape[-1])
    return factor + damping**0.5 * _mean_eigenvalue(factor) * eye


def _natural(factor):
    return factor.inverse / factor.inverted_scale


class TestPrecondition:
    def test_factored_tikhonov(self):
        """(A + pi sqrt(d) I) kron (B + sqrt(d) / pi I), Martens and Grosse (2015)."""
        damping = 0.3
        preconditioner, state, params = _preconditioner(damping=damping)
        factors = _factors(1)
        factors['first'] = [100 * factors['first'][0], 0.01 * factors['first'][1]]
        state = _invert(preconditioner, _update(preconditioner, state, factors))
        gradients = flatten(jax.tree.map(np.cos, params))
        outcome = jax.jit(preconditioner.precondition)(state, gradients)
        assert outcome.keys() == gradients.keys()
        for layer in preconditioner.layers:
            a, b = (factor[0] for factor in factors[layer.name])
            mean_a, mean_b = np.trace(a) / len(a), np.trace(b) / len(b)
            absolute = damping * mean_a * mean_b
            pi = (mean_a / mean_b) ** 0.5
            a = a + pi * absolute**0.5 * np.eye(len(a))
            b = b + absolute**0.5 / pi * np.eye(len(b))
            matrix = layer.to_matrix([gradients[n] for n in layer.parameter_names])[0]
            stacked = np.linalg.solve(np.kron(a, b), np.asarray(matrix).T.ravel())
            expected = stacked.reshape(matrix.shape[::-1]).T
            scale = preconditioner.curvature_scales(state, [layer])[0]
            assert float(scale) == pytest.approx(mean_a * mean_b)
            found = layer.to_matrix([outcome[n] for n in layer.parameter_names])[0]
            np.testing.assert_allclose(found / scale, expected, **CLOSE)
            for name in layer.parameter_names:
                assert outcome[name].shape == gradients[name].shape
        for name in ('norm/scale', 'norm/bias'):
            np.testing.assert_array_equal(outcome[name], gradients[name])

    def test_groups_are_preconditioned_apart(self):
        module, inputs = nn.Conv(6, (3,), feature_group_count=2), double(2, 5, 4)
        preconditioner, state, params = _preconditioner(module, inputs, damping=0.1)
        a, b = _spd(2, 7, seed=1), _spd(2, 3, seed=2)
        state = _invert(preconditioner, _update(preconditioner, state, {'': (a, b)}))
        (layer,) = preconditioner.layers
        outcome = preconditioner.precondition(state, params)
        outcome, given = (
            np.asarray(layer.to_matrix([tree[n] for n in layer.parameter_names]))
            for tree in (outcome, params)
        )
        back = _damped(b, 0.1) @ outcome @ _damped(a, 0.1)
        back = back / preconditioner.curvature_scales(state, [layer])[0]
        np.testing.assert_allclose(back, given, **CLOSE)

    def test_scale_does_not_matter(self):
        preconditioner, empty, params = _preconditioner()
        outcomes = []
        for scale in (1.0, 1e-30):
            factors = {
                name: [scale * factor for factor in sides]
                for name, sides in _factors(1).items()
            }
            state = _invert(preconditioner, _update(preconditioner, empty, factors))
            outcomes.append(preconditioner.precondition(state, flatten(params)))
        jax.tree.map(
            lambda left, right: np.testing.assert_allclose(left, right, **CLOSE),
            *outcomes,
        )

    def test_without_an_inverse_gradients_stay_as_they_are(self):
        preconditioner, state, params = _preconditioner()
        gradients = flatten(params)
        for now in (state, _update(preconditioner, state, _factors(1))):
            outcome = preconditioner.precondition(now, gradients)
            for name, given in gradients.items():
                np.testing.assert_array_equal(outcome[name], given)

    def test_layers_without_any_gradient_are_left_out(self):
        """They are frozen, as by `optax.masked`."""
        preconditioner, state, params = _preconditioner()
        gradients = {'second/kernel': flatten(params)['second/kernel']}
        outcome = jax.eval_shape(preconditioner.precondition, state, gradients)
        assert outcome.keys() == gradients.keys()

    def test_layer_with_some_of_its_gradients(self):
        preconditioner, state, params = _preconditioner()
        gradients = flatten(params)
        del gradients['first/bias']
        with pytest.raises(ValueError, match='first/bias, but for the rest of layer f'):
            jax.eval_shape(preconditioner.precondition, state, gradients)

    @pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
    def test_parameters_of_low_precision(self, dtype):
        """Factors and inverses are in single precision, updates as the parameters."""
        preconditioner, _, params = _preconditioner()
        params = jax.tree.map(lambda p: p.astype(dtype), params)

        def step(params):
            state = preconditioner.update_inverses(preconditioner.init(params))
            return state.factors, preconditioner.precondition(state, flatten(params))

        factors, outcome = jax.eval_shape(step, params)
        assert {leaf.dtype for leaf in jax.tree.leaves(factors)} == {jnp.float32.dtype}
        assert {leaf.dtype for leaf in jax.tree.leaves(outcome)} == {jnp.dtype(dtype)}


class TestMovingAverage:
    @pytest.mark.parametrize('decay', [0.0, 0.5, 0.95])
    def test_bias_corrected(self, decay):
        """Weights decay**age, divided by their sum."""
        preconditioner, state, _ = _preconditioner(factor_decay=decay, damping=0.1)
        history = []
        for seed in range(4):
            history.append(_factors(seed))
            state = _update(preconditioner, state, history[-1])
            state = _invert(preconditioner, state)
            weights = [decay ** (seed - age) for age in range(seed + 1)]
            for name, sides in by_layer(state).items():
                for i, side in enumerate('ab'):
                    average = sum(
                        weight * factors[name][i]
                        for weight, factors in zip(weights, history, strict=True)
                    ) / sum(weights)
                    np.testing.assert_allclose(
                        _natural(sides[side]),
                        np.linalg.inv(_damped(average, 0.1)),
                        **CLOSE,
                    )
        assert int(state.counters['factor_updates']) == 4
        assert int(state.counters['inverse_updates']) == 4

    def test_scale_of_the_loss(self):
        """M divides B alone, and the gradients' scale counts twice."""
        preconditioner, state, _ = _preconditioner(factor_decay=0.0)
        factors = _factors(1)
        state = preconditioner.update_factors(state, _sums(factors), 4.0, 3.0)
        for name, (a, b) in factors.items():
            sides = by_layer(state)[name]
            np.testing.assert_allclose(sides['a'].moving_average, a, **CLOSE)
            np.testing.assert_allclose(sides['b'].moving_average, b * 9 / 4, **CLOSE)

    def test_each_layer_by_itself(self):
        """A layer that joins late is corrected for its own updates."""
        preconditioner, state, _ = _preconditioner(factor_decay=0.5)
        state = _update(preconditioner, state, _factors(1, names=['first']))
        state = _update(preconditioner, state, _factors(2))
        weights = {
            name: float(sides['a'].averaged_weight)
            for name, sides in by_layer(state).items()
        }
        assert weights == {'first': 0.75, 'second': 0.5}


class TestBadStatistics:
    @pytest.mark.parametrize('value', [np.nan, np.inf])
    @pytest.mark.parametrize('side', [0, 1], ids=['A', 'B'])
    def test_not_finite(self, value, side):
        """The layer keeps its factors, and the others go on."""
        preconditioner, state, _ = _preconditioner(factor_decay=0.9)
        before = _update(preconditioner, state, _factors(1))
        factors = _factors(2)
        factors['second'][side][0, 0] = value
        after = _update(preconditioner, before, factors)
        for key in 'ab':
            for left, right in zip(
                by_layer(after)['second'][key],
                by_layer(before)['second'][key],
                strict=True,
            ):
                np.testing.assert_array_equal(left, right)
            first = by_layer(after)['first'][key]
            assert float(first.averaged_weight) == pytest.approx(0.19)
            assert np.isfinite(first.moving_average).all()
        assert int(after.counters['skipped_statistics']) == 1
        assert int(after.counters['factor_updates']) == 2

    def test_layer_whose_path_ends_like_a_side(self):
        """The sides of `w` are not next to each other in the order of names."""
        names = [f'{layer}/{side}' for layer in ('w', 'w/a', 'w/b') for side in 'ab']
        factors = KroneckerFactors.empty(dict.fromkeys(names, (1, 1, 1)), jnp.float64)
        statistics = {name: np.ones((1, 1, 1)) for name in names}
        statistics['w/b'] = np.full((1, 1, 1), np.nan)
        factors, skipped = factors.update(statistics, 0.5)
        weights = factors.averaged_weight[
            np.array([factors.stacks.places[n] for n in names])
        ]
        assert weights.tolist() == [0.0, 0.0, 0.5, 0.5, 0.5, 0.5]
        assert int(skipped) == 1

    @pytest.mark.parametrize('scale', [0.0, 1e-320])
    def test_vanishing_gradients_are_no_statistics(self, scale):
        preconditioner, state, _ = _preconditioner()
        factors = _factors(1)
        factors['first'][1] = scale * factors['first'][1]
        state = _invert(preconditioner, _update(preconditioner, state, factors))
        weights = {
            (name, side): float(factor.averaged_weight)
            for name, sides in by_layer(state).items()
            for side, factor in sides.items()
        }
        assert weights.pop(('first', 'b')) == 0.0
        assert list(weights.values()) == pytest.approx([0.1] * 3)
        assert int(state.counters['skipped_statistics']) == 0
        assert int(state.counters['failed_inverses']) == 0
        first = by_layer(state)['first']['b']
        np.testing.assert_array_equal(first.inverse[0], np.eye(4))
        assert float(first.inverted_scale) == 0.0

    def test_zero_initialised_head(self):
        """It hides the layers below in the first step, and not in the second."""

        class Plain(nn.Module):
            @nn.compact
            def __call__(self, x):
                x = nn.tanh(nn.Dense(4, name='first')(x))
                return nn.Dense(3, name='second')(x)

        module = Plain()
        preconditioner, state, params = _preconditioner(module)
        params = jax.tree.map(jnp.asarray, params)
        params['second']['kernel'] *= 0.0

        @jax.jit
        def step(state, params):
            capture = preconditioner.capture(batch_of(INPUTS))
            _, backward, _ = capture.vjp(
                lambda params: (module.apply({'params': params}, INPUTS), None), params
            )
            sums = backward(jnp.asarray(double(6, 3, seed=1)))[1]
            state = preconditioner.update_factors(state, sums, 6.0, 1.0)
            return preconditioner.update_inverses(state)

        reached = []
        for _ in range(2):
            state = step(state, params)
            reached.append(
                {n for n, f in by_layer(state).items() if f['b'].inverted_scale > 0}
            )
            params['second']['kernel'] += double(4, 3)
        assert reached == [{'second'}, {'first', 'second'}]
        assert int(state.counters['failed_inverses']) == 0


def _indefinite(factors, side, name='second'):
    factor = factors[name][side]
    factor -= 1e3 * np.eye(factor.shape[-1])
    # The trace stays positive, as that of sums of outer products always is.
    factor[0, 0, 0] += 1e5
    return factors


class TestFailedFactorisation:
    @pytest.mark.parametrize('side', [0, 1], ids=['A', 'B'])
    def test_the_last_good_inverse_is_kept(self, side):
        """And a factor of the same shape, inverted with it, is none the worse."""
        preconditioner, state, _ = _preconditioner(factor_decay=0.0, damping=1e-4)
        before = _invert(preconditioner, _update(preconditioner, state, _factors(1)))
        spoilt = _indefinite(_factors(2), side)
        after = _invert(preconditioner, _update(preconditioner, before, spoilt))
        failed = 'ab'[side]
        for name in DIMS:
            for i, key in enumerate('ab'):
                found, old = by_layer(after)[name][key], by_layer(before)[name][key]
                if (name, key) == ('second', failed):
                    np.testing.assert_array_equal(found.inverse, old.inverse)
                    assert found.inverted_scale == old.inverted_scale
                else:
                    expected = np.linalg.inv(_damped(spoilt[name][i], 1e-4))
                    np.testing.assert_allclose(_natural(found), expected, rtol=1e-6)
        assert int(after.counters['failed_inverses']) == 1
        assert int(after.counters['inverse_updates']) == 2

    def test_without_one_that_side_is_left_out(self):
        preconditioner, state, params = _preconditioner(factor_decay=0.0, damping=1e-4)
        state = _update(preconditioner, state, _indefinite(_factors(2), 0))
        state = _invert(preconditioner, state)
        gradients = flatten(params)
        outcome = preconditioner.precondition(state, gradients)['second/kernel']
        inverse_b = by_layer(state)['second']['b'].inverse[0]
        np.testing.assert_allclose(
            outcome, gradients['second/kernel'] @ inverse_b, **CLOSE
        )
        layer = preconditioner.layers[-1]
        assert layer.name == 'second'
        assert float(preconditioner.curvature_scales(state, [layer])[0]) == 0.0


class TestOptax:
    """The preconditioner as a gradient transformation."""

    def test_alone(self):
        preconditioner, state, params = _preconditioner(damping=0.1)
        transformation = preconditioner.transformation()
        jax.tree.map(np.testing.assert_array_equal, transformation.init(params), state)

        @jax.jit
        def step(gradients, state, renew):
            return transformation.update(
                gradients,
                state,
                params,
                sums=_sums(_factors(1)),
                loss_terms=2.0,
                gradient_scale=3.0,
                renew_inverses=renew,
            )

        expected = preconditioner.update_factors(state, _sums(_factors(1)), 2.0, 3.0)
        for renew in (False, True):
            updates, found = step(params, state, renew)
            wanted = _invert(preconditioner, expected) if renew else expected
            jax.tree.map(
                lambda left, right: np.testing.assert_allclose(left, right, **CLOSE),
                (updates, found),
                (
                    unflatten(
                        preconditioner.precondition(wanted, flatten(params)), params
                    ),
                    wanted,
                ),
            )

    def test_in_a_chain(self):
        preconditioner, _, params = _preconditioner(damping=0.1)
        chain = optax.chain(
            optax.clip_by_global_norm(1e9),
            preconditioner.transformation(),
            optax.scale(-0.5),
        )

        @jax.jit
        def with_statistics(gradients, state):
            return chain.update(
                gradients, state, params, sums=_sums(_factors(1)), renew_inverses=True
            )

        @jax.jit
        def without(gradients, state):
            return chain.update(gradients, state, params)

        first, state = with_statistics(params, chain.init(params))
        second, state = without(params, state)
        _, alone, _ = _preconditioner(damping=0.1)
        alone = _invert(preconditioner, _update(preconditioner, alone, _factors(1)))
        expected = preconditioner.precondition(alone, flatten(params))
        for found in (first, second):
            for name, update in flatten(found).items():
                np.testing.assert_allclose(update, -0.5 * expected[name], **CLOSE)
        jax.tree.map(
            lambda left, right: np.testing.assert_allclose(left, right, **CLOSE),
            state[1],
            alone,
        )

    @pytest.mark.parametrize('renew', [None, True, np.True_])
    def test_inverses_without_statistics(self, renew):
        preconditioner, state, params = _preconditioner()
        transformation = preconditioner.transformation()
        options = {} if renew is None else {'renew_inverses': renew}
        step = jax.make_jaxpr(
            lambda gradients: transformation.update(gradients, state, **options)
        )(params)
        assert ('cholesky' in str(step)) == (renew is not None)


class TestWhatIsLogged:
    def test_factors_that_have_always_vanished(self, caplog):
        preconditioner, state, _ = _preconditioner()
        preconditioner._unreached.add('first')
        weights = dict.fromkeys(state.factors.stacks.order, 0.0)
        weights['second/b'] = 0.5
        with caplog.at_level(logging.WARNING):
            preconditioner.log_vanished(9, weights)
            assert not caplog.records
            preconditioner.log_vanished(10, weights)
            preconditioner.log_vanished(20, weights)
        (message,) = [record.getMessage() for record in caplog.records]
        assert 'factor A of layer second has vanished' in message

    def test_no_layer(self, caplog):
        with caplog.at_level(logging.WARNING):
            _preconditioner(nn.LayerNorm())
        (message,) = [record.getMessage() for record in caplog.records]
        assert 'no layer that it can train' in message

    def test_variables_in_place_of_parameters(self):
        variables = {'params': init(Model(), INPUTS)}
        shapes = {name: p.shape for name, p in flatten(variables).items()}
        applications = find_applications(
            lambda: Model().init(jax.random.key(0), INPUTS)
        )
        with pytest.raises(ValueError, match=r"give variables\['params'\]"):
            KFACPreconditioner(shapes, applications, Settings())


def test_who_trains_what_is_logged(caplog):
    with caplog.at_level(logging.INFO, logger='absl'):
        _, _, params = _preconditioner()
    text = '\n'.join(record.getMessage() for record in caplog.records)
    assert 'K-FAC trains 3 of 5 parameters' in text
    for name in flatten(params):
        assert name in text
    assert 'LayerNorm has no Kronecker factors' in text
