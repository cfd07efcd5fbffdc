"""The first-order rules against plain implementations of them, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from submission.jax.capture import find_applications
from submission.jax.first_order import FirstOrderOptimizer
from submission.jax.moments import scale_by_nadam
from submission.jax.naming import flatten, unflatten
from submission.jax.preconditioner import KFACPreconditioner
from submission.settings import Settings
from tests.submission.training import REQUIRED

from .curvature import double, init, random_sums
from .test_preconditioner import INPUTS, Model

pytestmark = pytest.mark.usefixtures('double_precision')

STEPS = 12
LEARNING_RATES = [0.05 * (1 + step % 3) for step in range(STEPS)]
CLOSE = {'rtol': 1e-9, 'atol': 1e-12}
LAYERS = {'first': ['first/kernel', 'first/bias'], 'second': ['second/kernel']}
IN_LAYERS = [name for names in LAYERS.values() for name in names]


def _settings(**changes):
    return Settings(**{**REQUIRED, **changes})


def _params():
    return jax.tree.map(jnp.asarray, init(Model(), INPUTS))


def _gradients(params, step):
    """Any numbers; some are small, some large."""
    named = {
        name: double(*p.shape, seed=100 * step + n) * 10.0 ** (n - 2)
        for n, (name, p) in enumerate(flatten(params).items())
    }
    return unflatten(named, params)


def _assert_close(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], **(tolerance or CLOSE))


def _joint_norm(values, names):
    return np.sqrt(sum(float((np.asarray(values[name]) ** 2).sum()) for name in names))


class Reference:
    """NAdamW as in Table 1 of Choi et al. (2019), one parameter at a time."""

    def __init__(self, settings, *, divide=True):
        self._settings = settings
        self._divide = divide
        self._state = {}

    def direction(self, name, gradient):
        gradient = np.asarray(gradient)
        beta1, beta2 = 1 - self._settings.one_minus_beta1, self._settings.beta2
        t, m, v = self._state.get(name, (0, 0.0, 0.0))
        t += 1
        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        self._state[name] = t, m, v
        look_ahead = (beta1 * m + (1 - beta1) * gradient) / (1 - beta1**t)
        if not self._divide:
            return look_ahead
        return look_ahead / ((v / (1 - beta2**t)) ** 0.5 + 1e-8)

    def decay_and_move(self, value, direction, learning_rate):
        shrunk = value - learning_rate * self._settings.weight_decay * value
        return shrunk - learning_rate * direction


class TestNAdamW:
    @pytest.mark.parametrize(
        'changes',
        [
            {'weight_decay': 0.3},
            {'one_minus_beta1': 1.0, 'beta2': 0.0},
            {'grad_clip': 0.5},
            {'grad_clip': 1e6, 'beta2': 0.999},
        ],
        ids=['decay', 'no moments', 'clipped', 'not clipped'],
    )
    def test_equals_the_reference(self, changes):
        settings = _settings(approximation='none', **changes)
        optimizer, params = FirstOrderOptimizer(settings, None), _params()
        state, step = optimizer.init(params), jax.jit(optimizer.step)
        reference, expected = Reference(settings), flatten(params)
        for number, learning_rate in enumerate(LEARNING_RATES):
            gradients = _gradients(params, number)
            params, state, norm = step(params, gradients, state, None, learning_rate)
            named = flatten(gradients)
            whole = _joint_norm(named, named)
            assert float(norm) == pytest.approx(whole)
            clip = settings.grad_clip
            factor = 1.0 if clip is None else min(clip / (whole + 1e-6), 1.0)
            for name, gradient in named.items():
                expected[name] = reference.decay_and_move(
                    expected[name],
                    reference.direction(name, factor * gradient),
                    learning_rate,
                )
            _assert_close(flatten(params), expected)

    def test_is_an_optax_transformation(self):
        """With optax's own decay and scale it is the whole rule."""
        settings = _settings(approximation='none', weight_decay=0.3)
        chain = optax.chain(
            scale_by_nadam(0.9, settings.beta2),
            optax.add_decayed_weights(0.3),
            optax.scale(-0.05),
        )
        optimizer, params = FirstOrderOptimizer(settings, None), _params()
        state, step = optimizer.init(params), jax.jit(optimizer.step)
        chained, chain_state, update = params, chain.init(params), jax.jit(chain.update)
        for number in range(3):
            gradients = _gradients(params, number)
            params, state, _ = step(params, gradients, state, None, 0.05)
            updates, chain_state = update(gradients, chain_state, chained)
            chained = optax.apply_updates(chained, updates)
        _assert_close(flatten(chained), flatten(params))


def _preconditioner(settings):
    """One with inverses, and its state."""
    params = _params()
    shapes = {name: p.shape for name, p in flatten(params).items()}
    applications = find_applications(lambda: Model().init(jax.random.key(0), INPUTS))
    preconditioner = KFACPreconditioner(shapes, applications, settings)
    sums = random_sums(preconditioner.layers)

    @jax.jit
    def run(state):
        state = preconditioner.update_factors(state, sums, 8.0, 1.0)
        return preconditioner.update_inverses(state)

    return preconditioner, run(preconditioner.init(params))


def _preconditioned(preconditioner, state, gradients, natural_scale=False):
    outcome = dict(preconditioner.precondition(state, gradients))
    if natural_scale:
        for layer in preconditioner.layers:
            scale = preconditioner.curvature_scales(state, [layer])[0]
            outcome.update({n: outcome[n] / scale for n in layer.parameter_names})
    return outcome


class TestRulesOnPreconditionedGradients:
    def _run(self, rule, expected_direction, **changes):
        """Compares with directions from raw and preconditioned gradients."""
        settings = _settings(first_order_rule=rule, weight_decay=0.1, **changes)
        preconditioner, kfac_state = _preconditioner(settings)
        optimizer, params = FirstOrderOptimizer(settings, preconditioner), _params()
        state, step = optimizer.init(params), jax.jit(optimizer.step)
        reference, expected = Reference(settings), flatten(params)
        direction_of = expected_direction(settings)
        for number, learning_rate in enumerate(LEARNING_RATES):
            gradients = _gradients(params, number)
            raw = flatten(gradients)
            preconditioned = _preconditioned(
                preconditioner, kfac_state, raw, rule == 'momentum'
            )
            directions = direction_of(raw, preconditioned)
            params, state, _ = step(params, gradients, state, kfac_state, learning_rate)
            for name, direction in directions.items():
                expected[name] = reference.decay_and_move(
                    expected[name], direction, learning_rate
                )
            _assert_close(flatten(params), expected)

    def test_preconditioning_does_something(self):
        preconditioner, state = _preconditioner(_settings())
        raw = flatten(_gradients(_params(), 0))
        outcome = _preconditioned(preconditioner, state, raw)
        changed = {name for name in raw if not np.allclose(outcome[name], raw[name])}
        assert changed == set(IN_LAYERS)

    def test_nadamw(self):
        def directions(settings):
            nadamw = Reference(settings)

            def of(raw, preconditioned):
                return {n: nadamw.direction(n, g) for n, g in preconditioned.items()}

            return of

        self._run('nadamw', directions)

    def test_momentum(self):
        def directions(settings):
            nadamw, momentum = Reference(settings), Reference(settings, divide=False)

            def of(raw, preconditioned):
                return {
                    name: (momentum if name in IN_LAYERS else nadamw).direction(name, g)
                    for name, g in preconditioned.items()
                }

            return of

        self._run('momentum', directions)

    def test_grafted(self):
        """The direction of momentum, and for each layer the length of NAdamW."""

        def directions(settings):
            nadamw, momentum = Reference(settings), Reference(settings, divide=False)

            def of(raw, preconditioned):
                result = {n: nadamw.direction(n, g) for n, g in raw.items()}
                for names in LAYERS.values():
                    length = _joint_norm(result, names)
                    moves = {n: momentum.direction(n, preconditioned[n]) for n in names}
                    factor = length / _joint_norm(moves, names)
                    result.update({n: factor * moves[n] for n in names})
                return result

            return of

        self._run('grafted', directions)

    def test_grafted_without_any_gradient(self):
        """A direction of length zero is not divided by its length."""
        settings = _settings(first_order_rule='grafted', weight_decay=0.0)
        preconditioner, kfac_state = _preconditioner(settings)
        optimizer, params = FirstOrderOptimizer(settings, preconditioner), _params()
        zeros = jax.tree.map(jnp.zeros_like, params)
        found, *_ = jax.jit(optimizer.step)(
            params, zeros, optimizer.init(params), kfac_state, 0.1
        )
        _assert_close(flatten(found), flatten(params), rtol=0)

    def test_momentum_before_the_first_inverse(self):
        """Without a scale it follows the gradient."""
        settings = _settings(first_order_rule='momentum', weight_decay=0.0)
        preconditioner, _ = _preconditioner(settings)
        optimizer, params = FirstOrderOptimizer(settings, preconditioner), _params()
        gradients = _gradients(params, 0)
        found, *_ = jax.jit(optimizer.step)(
            params,
            gradients,
            optimizer.init(params),
            preconditioner.init(params),
            0.1,
        )
        momentum = Reference(settings, divide=False)
        for name in IN_LAYERS:
            direction = momentum.direction(name, flatten(gradients)[name])
            np.testing.assert_allclose(
                flatten(found)[name], flatten(params)[name] - 0.1 * direction, **CLOSE
            )

    def test_clipping_comes_before_preconditioning(self):
        def directions(settings):
            nadamw, momentum = Reference(settings), Reference(settings, divide=False)

            def of(raw, preconditioned):
                # Preconditioning is linear; only the norm is of the raw gradient.
                factor = 0.5 / (_joint_norm(raw, raw) + 1e-6)
                return {
                    name: (momentum if name in IN_LAYERS else nadamw).direction(
                        name, factor * g
                    )
                    for name, g in preconditioned.items()
                }

            return of

        self._run('momentum', directions, grad_clip=0.5)


@pytest.mark.parametrize('rule', ['nadamw', 'momentum', 'grafted', 'spectral'])
@pytest.mark.parametrize('value', [np.nan, -np.inf])
def test_gradient_that_is_not_finite(rule, value):
    """The step is skipped and counted; the run goes on as if it had not been."""
    settings = _settings(first_order_rule=rule)
    preconditioner, kfac_state = _preconditioner(settings)
    optimizer, params = FirstOrderOptimizer(settings, preconditioner), _params()
    step = jax.jit(optimizer.step)
    bad = _gradients(params, 77)
    bad['norm']['bias'][1] = value
    runs = []
    for spoilt in (False, True):
        now, state = params, optimizer.init(params)
        for number in range(3):
            if spoilt and number == 2:
                before = now, state
                now, state, norm = step(now, bad, state, kfac_state, 0.1)
                assert not np.isfinite(norm)
                jax.tree.map(
                    np.testing.assert_array_equal,
                    (now, state._replace(skipped_steps=before[1].skipped_steps)),
                    before,
                )
            now, state, _ = step(
                now, _gradients(params, number), state, kfac_state, 0.1
            )
        runs.append((now, state))
    (clean, clean_state), (found, found_state) = runs
    jax.tree.map(np.testing.assert_array_equal, found, clean)
    assert int(found_state.skipped_steps) == 1
    assert int(clean_state.skipped_steps) == 0


@pytest.mark.parametrize(
    ('rule', 'nadamw', 'momentum'),
    [('nadamw', 4, 0), ('grafted', 4, 2), ('momentum', 2, 2), ('spectral', 2, 2)],
)
def test_moments_are_kept_for_those_who_use_them(rule, nadamw, momentum):
    """Those of layers by stack: here kernel and bias of one, the kernel of another."""
    settings = _settings(first_order_rule=rule)
    preconditioner, _ = _preconditioner(settings)
    state = FirstOrderOptimizer(settings, preconditioner).init(_params())
    assert len(state.nadamw.first) == len(state.nadamw.squares) == nadamw
    assert len(state.momentum.first) == momentum
    assert state.momentum.squares is None
