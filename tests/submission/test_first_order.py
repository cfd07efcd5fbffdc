"""The first-order rules against plain implementations of them, in float64."""

import io

import pytest
import torch
from torch import nn

from submission.pytorch.first_order import FirstOrderOptimizer
from submission.pytorch.preconditioner import KFACPreconditioner
from submission.settings import Settings

from .curvature import batch_of, double
from .training import REQUIRED

STEPS = 20
LEARNING_RATES = [0.05 * (1 + step % 3) for step in range(STEPS)]
CLOSE = {'rtol': 1e-12, 'atol': 1e-14}


def _settings(**changes):
    return Settings(**{**REQUIRED, **changes})


class Model(nn.Module):
    """One layer that K-FAC handles, one with a bias of its own, and a scale."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 4)
        self.plain = nn.Linear(4, 3, bias=False)
        self.norm = nn.LayerNorm(3)
        self.double()

    def forward(self, x):
        return self.norm(self.plain(torch.tanh(self.linear(x))))


def _model():
    torch.manual_seed(3)
    return Model()


def _gradients(model, step):
    """Any numbers; some are small, some large."""
    return {
        name: double(*p.shape, seed=100 * step + n) * 10.0 ** (n - 2)
        for n, (name, p) in enumerate(model.named_parameters())
    }


def _set_gradients(model, gradients):
    for name, parameter in model.named_parameters():
        gradient = gradients.get(name)
        parameter.grad = None if gradient is None else gradient.clone()


def _values(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def _assert_equal(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(
            found[name], expected[name], **(tolerance or {'rtol': 0, 'atol': 0})
        )


class Reference:
    """NAdamW as in Table 1 of Choi et al. (2019), one parameter at a time."""

    def __init__(self, settings, *, divide=True):
        self._settings = settings
        self._divide = divide
        self._state = {}

    def direction(self, name, gradient):
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
            {'weight_decay': 0.0},
            {'weight_decay': 0.3},
            {'one_minus_beta1': 1.0, 'beta2': 0.0},
            {'grad_clip': 0.5},
            {'grad_clip': 1e6, 'beta2': 0.999},
        ],
        ids=['plain', 'decay', 'no moments', 'clipped', 'not clipped'],
    )
    def test_equals_the_reference(self, changes):
        settings = _settings(approximation='none', **changes)
        model = _model()
        optimizer = FirstOrderOptimizer(model, settings, None)
        reference, expected = Reference(settings), _values(model)
        for step, learning_rate in enumerate(LEARNING_RATES):
            gradients = _gradients(model, step)
            _set_gradients(model, gradients)
            whole = torch.cat([g.flatten() for g in gradients.values()]).norm()
            norm = optimizer.step(learning_rate)
            torch.testing.assert_close(norm, whole, **CLOSE)
            if settings.grad_clip is not None:
                _set_gradients(model, gradients)
                nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
                gradients = {n: p.grad for n, p in model.named_parameters()}
            for name, gradient in gradients.items():
                expected[name] = reference.decay_and_move(
                    expected[name], reference.direction(name, gradient), learning_rate
                )
            _assert_equal(_values(model), expected, **CLOSE)

    def test_parameters_without_a_gradient_stand_still(self):
        model = _model()
        optimizer = FirstOrderOptimizer(model, _settings(approximation='none'), None)
        before = _values(model)
        gradients = _gradients(model, 0)
        del gradients['norm.weight']
        _set_gradients(model, gradients)
        optimizer.step(0.1)
        after = _values(model)
        unchanged = {name for name in after if torch.equal(after[name], before[name])}
        assert unchanged == {'norm.weight'}

    def test_frozen_parameters_are_left_alone(self):
        model = _model()
        model.plain.weight.requires_grad_(False)
        optimizer = FirstOrderOptimizer(model, _settings(approximation='none'), None)
        before = model.plain.weight.clone()
        model(double(6, 5)).square().sum().backward()
        optimizer.step(0.1)
        assert torch.equal(model.plain.weight, before)


def _preconditioner(model, settings):
    """One with the inverses of one batch."""
    preconditioner = KFACPreconditioner(model, settings)
    inputs = double(8, 5)
    with preconditioner.capture(batch_of(inputs)) as capture:
        outputs = model(inputs)
        capture.watch_backward()
        (outputs * double(8, 3, seed=1)).sum().backward()
    preconditioner.update_factors(capture, 8.0, 1.0)
    preconditioner.update_inverses()
    model.zero_grad()
    return preconditioner


def _preconditioned(preconditioner, gradients, natural_scale=False):
    outcome = dict(gradients)
    for layer in preconditioner.layers:
        names = layer.parameter_names
        values = preconditioner.precondition(layer, [gradients[n] for n in names])
        if natural_scale:
            values = [v / preconditioner.curvature_scale(layer) for v in values]
        outcome.update(zip(names, values, strict=True))
    return outcome


LAYERS = {'linear': ['linear.weight', 'linear.bias'], 'plain': ['plain.weight']}
IN_LAYERS = [name for names in LAYERS.values() for name in names]


def _joint_norm(values, names):
    return torch.cat([values[name].flatten() for name in names]).norm()


class TestRulesOnPreconditionedGradients:
    def _run(self, rule, expected_direction, **changes):
        """Compares with directions from raw and preconditioned gradients."""
        settings = _settings(first_order_rule=rule, weight_decay=0.1, **changes)
        model = _model()
        preconditioner = _preconditioner(model, settings)
        optimizer = FirstOrderOptimizer(model, settings, preconditioner)
        reference, expected = Reference(settings), _values(model)
        direction_of = expected_direction(settings)
        for step, learning_rate in enumerate(LEARNING_RATES):
            raw = _gradients(model, step)
            preconditioned = _preconditioned(preconditioner, raw, rule == 'momentum')
            directions = direction_of(raw, preconditioned)
            _set_gradients(model, raw)
            optimizer.step(learning_rate)
            for name, direction in directions.items():
                expected[name] = reference.decay_and_move(
                    expected[name], direction, learning_rate
                )
            _assert_equal(_values(model), expected, rtol=1e-10, atol=1e-12)

    def test_preconditioning_does_something(self):
        model = _model()
        raw = _gradients(model, 0)
        outcome = _preconditioned(_preconditioner(model, _settings()), raw)
        changed = {name for name in raw if not torch.allclose(outcome[name], raw[name])}
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

    def test_grafted_updates_are_as_long_as_those_of_nadamw(self):
        models = _model(), _model()
        settings = _settings(first_order_rule='grafted', weight_decay=0.0)
        grafted = FirstOrderOptimizer(
            models[0], settings, _preconditioner(models[0], settings)
        )
        plain = FirstOrderOptimizer(models[1], settings, None)
        for step in range(STEPS):
            moves = []
            for model, optimizer in zip(models, (grafted, plain), strict=True):
                before = _values(model)
                _set_gradients(model, _gradients(model, step))
                optimizer.step(0.1)
                after = _values(model)
                moves.append({name: after[name] - before[name] for name in after})
            for names in LAYERS.values():
                torch.testing.assert_close(
                    _joint_norm(moves[0], names), _joint_norm(moves[1], names)
                )
            for name in ('norm.weight', 'norm.bias'):
                torch.testing.assert_close(moves[0][name], moves[1][name])

    def test_grafted_without_any_gradient(self):
        """A direction of length zero is not divided by its length."""
        model = _model()
        settings = _settings(first_order_rule='grafted', weight_decay=0.0)
        optimizer = FirstOrderOptimizer(
            model, settings, _preconditioner(model, settings)
        )
        before = _values(model)
        _set_gradients(model, {n: torch.zeros_like(p) for n, p in before.items()})
        optimizer.step(0.1)
        _assert_equal(_values(model), before)

    def test_clipping_comes_before_preconditioning(self):
        settings = _settings(grad_clip=0.5, first_order_rule='momentum')
        model = _model()
        preconditioner = _preconditioner(model, settings)
        optimizer = FirstOrderOptimizer(model, settings, preconditioner)
        raw, before = _gradients(model, 0), _values(model)
        norm = torch.cat([g.flatten() for g in raw.values()]).norm()
        factor = 0.5 / (norm + 1e-6)
        clipped = {name: factor * g for name, g in raw.items()}
        direction = _preconditioned(preconditioner, clipped, natural_scale=True)
        direction = direction['plain.weight']
        _set_gradients(model, raw)
        optimizer.step(0.1)
        expected = Reference(settings, divide=False).direction('', direction)
        moved = before['plain.weight'] * (1 - 0.1 * settings.weight_decay)
        moved = moved - 0.1 * expected
        torch.testing.assert_close(model.plain.weight.detach(), moved, **CLOSE)


@pytest.mark.parametrize('rule', ['nadamw', 'momentum', 'grafted', 'spectral'])
class TestNonFiniteGradients:
    @pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
    def test_the_step_is_skipped_and_counted(self, rule, value):
        """The run goes on as if the step had not been."""
        settings = _settings(first_order_rule=rule)
        models = _model(), _model()
        optimizers = [
            FirstOrderOptimizer(model, settings, _preconditioner(model, settings))
            for model in models
        ]
        for step in range(4):
            if step == 2:
                before = _values(models[0])
                gradients = _gradients(models[0], 77)
                gradients['norm.bias'][1] = value
                _set_gradients(models[0], gradients)
                assert not torch.isfinite(optimizers[0].step(0.1))
                _assert_equal(_values(models[0]), before)
            for model, optimizer in zip(models, optimizers, strict=True):
                _set_gradients(model, _gradients(model, step))
                optimizer.step(0.1)
        _assert_equal(_values(models[0]), _values(models[1]))
        assert [optimizer.skipped_steps for optimizer in optimizers] == [1, 0]


def _through_file(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize('rule', ['nadamw', 'momentum', 'grafted', 'spectral'])
class TestStateDict:
    def test_resumes_bit_for_bit(self, rule):
        settings = _settings(first_order_rule=rule)
        model = _model()
        preconditioner = _preconditioner(model, settings)
        optimizer = FirstOrderOptimizer(model, settings, preconditioner)

        def take(model, optimizer, steps):
            for step in steps:
                _set_gradients(model, _gradients(model, step))
                optimizer.step(0.1)

        take(model, optimizer, range(5))
        _set_gradients(
            model, {n: p * float('nan') for n, p in _gradients(model, 0).items()}
        )
        optimizer.step(0.1)
        state = _through_file(optimizer.state_dict())
        copy = _model()
        copy.load_state_dict(model.state_dict())
        resumed = FirstOrderOptimizer(copy, settings, preconditioner)
        resumed.load_state_dict(state)
        for one, steps in ((resumed, range(5, 9)), (optimizer, range(5, 9))):
            take(copy if one is resumed else model, one, steps)
        _assert_equal(_values(copy), _values(model))
        assert resumed.skipped_steps == 1

    def test_moments_of_an_unknown_parameter(self, rule):
        settings = _settings(first_order_rule=rule)
        model = _model()
        optimizer = FirstOrderOptimizer(model, settings, None)
        _set_gradients(model, _gradients(model, 0))
        optimizer.step(0.1)
        other = FirstOrderOptimizer(nn.Sequential(nn.Linear(5, 4)), settings, None)
        with pytest.raises(ValueError, match=r"'linear\.weight'"):
            other.load_state_dict(optimizer.state_dict())


def test_zero_grad_forgets_gradients():
    model = _model()
    optimizer = FirstOrderOptimizer(model, _settings(approximation='none'), None)
    _set_gradients(model, _gradients(model, 0))
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())
