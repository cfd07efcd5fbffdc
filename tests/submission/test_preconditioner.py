"""Averages of factors, damped inverses, and what happens when they go wrong."""

import io
import logging
import types

import pytest
import torch
from torch import nn

from submission.pytorch.approximations import FactorSums
from submission.pytorch.inverses import mean_eigenvalue
from submission.pytorch.preconditioner import KFACPreconditioner
from submission.settings import Settings

from .curvature import batch_of, double

NAN = float('nan')


def _model():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3, bias=False)
    ).double()


def _spd(groups, dim, seed):
    root = double(groups, dim, dim, seed=seed)
    return root @ root.transpose(1, 2) + 0.1 * torch.eye(dim, dtype=root.dtype)


def _captured(factors):
    """Stands for a capture whose sums lead to the given factors."""
    sums = {
        name: FactorSums(a.clone(), torch.tensor(1.0), b.clone())
        for name, (a, b) in factors.items()
    }
    return types.SimpleNamespace(sums=lambda: sums, errors={})


def _factors(seed, names=('0', '2')):
    dims = {'0': (6, 4), '2': (4, 3)}
    return {
        name: (_spd(1, dims[name][0], seed), _spd(1, dims[name][1], seed + 50))
        for name in names
    }


def _update(preconditioner, factors):
    preconditioner.update_factors(_captured(factors), 1.0, 1.0)


def _states(preconditioner):
    return preconditioner.state_dict()['layers']


def _damped(factor, damping):
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype)
    return factor + damping**0.5 * mean_eigenvalue(factor) * eye


class TestPrecondition:
    @pytest.mark.parametrize('damping', [1e-4, 0.1])
    def test_solves_with_the_damped_kronecker_product(self, damping):
        model = _model()
        preconditioner = KFACPreconditioner(model, Settings(damping=damping))
        factors = _factors(seed=1)
        _update(preconditioner, factors)
        preconditioner.update_inverses()
        for layer in preconditioner.layers:
            gradients = [double(*p.shape, seed=9) for p in layer.parameters]
            matrix = layer.to_matrix(gradients)[0]
            a, b = (_damped(f, damping)[0] for f in factors[layer.name])
            stacked = torch.linalg.solve(torch.kron(a, b), matrix.T.flatten())
            expected = stacked.view(matrix.shape[1], matrix.shape[0]).T
            outcome = preconditioner.precondition(layer, gradients)
            assert [o.shape for o in outcome] == [p.shape for p in layer.parameters]
            scale = preconditioner.curvature_scale(layer)
            means = [mean_eigenvalue(factor) for factor in factors[layer.name]]
            torch.testing.assert_close(scale, means[0] * means[1])
            natural = layer.to_matrix(outcome)[0] / scale
            torch.testing.assert_close(natural, expected)

    def test_groups_are_preconditioned_apart(self):
        model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2)).double()
        preconditioner = KFACPreconditioner(model, Settings(damping=0.1))
        a, b = _spd(2, 19, seed=1), _spd(2, 3, seed=2)
        _update(preconditioner, {'0': (a, b)})
        preconditioner.update_inverses()
        (layer,) = preconditioner.layers
        gradients = [double(*p.shape, seed=9) for p in layer.parameters]
        outcome = layer.to_matrix(preconditioner.precondition(layer, gradients))
        back = _damped(b, 0.1) @ outcome @ _damped(a, 0.1)
        back = back / preconditioner.curvature_scale(layer)
        torch.testing.assert_close(back, layer.to_matrix(gradients))

    def test_without_an_inverse_gradients_stay_as_they_are(self):
        preconditioner = KFACPreconditioner(_model(), Settings())
        for update in (lambda: None, lambda: _update(preconditioner, _factors(1))):
            update()
            for layer in preconditioner.layers:
                gradients = [double(*p.shape) for p in layer.parameters]
                outcome = preconditioner.precondition(layer, gradients)
                for found, given in zip(outcome, gradients, strict=True):
                    assert torch.equal(found, given)


class TestMovingAverage:
    @pytest.mark.parametrize('decay', [0.0, 0.5, 0.95])
    def test_bias_corrected(self, decay):
        """Weights decay**age, divided by their sum."""
        settings = Settings(factor_decay=decay, damping=0.1)
        preconditioner = KFACPreconditioner(_model(), settings)
        history = []
        for seed in range(5):
            history.append(_factors(seed))
            _update(preconditioner, history[-1])
            preconditioner.update_inverses()
            weights = [decay ** (seed - age) for age in range(seed + 1)]
            for name, state in _states(preconditioner).items():
                for side, key in enumerate('ab'):
                    average = sum(
                        weight * factors[name][side]
                        for weight, factors in zip(weights, history, strict=True)
                    ) / sum(weights)
                    natural = state[key]['inverse'] / state[key]['inverted_scale']
                    expected = torch.linalg.inv(_damped(average, 0.1))
                    torch.testing.assert_close(natural, expected)

    def test_scale_of_the_loss(self):
        """M divides B alone, and the gradients' scale counts twice."""
        preconditioner = KFACPreconditioner(_model(), Settings(factor_decay=0.0))
        factors = _factors(1)
        preconditioner.update_factors(_captured(factors), 4.0, 3.0)
        for name, state in _states(preconditioner).items():
            a, b = (state[side]['moving_average'] for side in 'ab')
            torch.testing.assert_close(a, factors[name][0])
            torch.testing.assert_close(b, factors[name][1] * 9 / 4)

    def test_each_layer_by_itself(self):
        """A layer that joins late is corrected for its own updates."""
        preconditioner = KFACPreconditioner(_model(), Settings(factor_decay=0.5))
        _update(preconditioner, _factors(1, names=['0']))
        _update(preconditioner, _factors(2))
        weights = {
            name: state['a']['averaged_weight']
            for name, state in _states(preconditioner).items()
        }
        assert weights == {'0': 0.75, '2': 0.5}


def _average(states, name, key):
    return states[name][key]['moving_average']


def _messages(caplog):
    return [record.getMessage() for record in caplog.records]


class TestBadStatistics:
    @pytest.mark.parametrize('value', [NAN, float('inf')])
    @pytest.mark.parametrize('side', [0, 1], ids=['A', 'B'])
    def test_not_finite(self, value, side, caplog):
        """The layer keeps its factors, and the others go on."""
        preconditioner = KFACPreconditioner(_model(), Settings())
        _update(preconditioner, _factors(1))
        before = {
            (name, key): _average(_states(preconditioner), name, key).clone()
            for name in '02'
            for key in 'ab'
        }
        factors = _factors(2)
        factors['2'][side][0, 0, 1] = value
        with caplog.at_level(logging.WARNING):
            _update(preconditioner, factors)
        after = _states(preconditioner)
        for key in 'ab':
            assert torch.equal(_average(after, '2', key), before['2', key])
            assert not torch.equal(_average(after, '0', key), before['0', key])
            assert after['2'][key]['averaged_weight'] == pytest.approx(0.1)
            assert after['0'][key]['averaged_weight'] == pytest.approx(0.19)
        assert preconditioner.counters['skipped_statistics'] == 1
        (message,) = _messages(caplog)
        assert 'layer 2' in message
        assert 'not finite' in message

    @pytest.mark.parametrize('scale', [0.0, 1e-320])
    def test_vanishing_gradients_are_no_statistics(self, scale, caplog):
        preconditioner = KFACPreconditioner(_model(), Settings())
        factors = _factors(1)
        factors['0'] = factors['0'][0], scale * factors['0'][1]
        with caplog.at_level(logging.WARNING):
            _update(preconditioner, factors)
        assert _average(_states(preconditioner), '0', 'a') is not None
        assert _average(_states(preconditioner), '0', 'b') is None
        assert _average(_states(preconditioner), '2', 'b') is not None
        assert preconditioner.counters['skipped_statistics'] == 0
        assert not caplog.records

    def test_zero_initialised_head(self):
        """It hides the layers below in the first step, and not in the second."""
        model = _model()
        nn.init.zeros_(model[2].weight)
        preconditioner = KFACPreconditioner(model, Settings())
        batch = batch_of(double(6, 5))
        reached = []
        for _ in range(2):
            with preconditioner.capture(batch) as capture:
                outputs = model(batch['inputs'])
                capture.backward_to_layers(outputs, double(6, 3, seed=1))
            preconditioner.update_factors(capture, 6.0, 1.0)
            preconditioner.update_inverses()
            reached.append(
                {
                    name
                    for name, state in _states(preconditioner).items()
                    if state['b']['inverse'] is not None
                }
            )
            with torch.no_grad():
                model[2].weight += double(3, 4)
        assert reached == [{'2'}, {'0', '2'}]
        assert preconditioner.counters['failed_inverses'] == 0


@pytest.mark.parametrize('approximation', ['expand', 'reduce'])
def test_passes_in_lower_precision(approximation):
    """Factors are in the precision of the parameters all the same."""
    model = _model().float()
    preconditioner = KFACPreconditioner(model, Settings(approximation=approximation))
    inputs = double(6, 5).float()
    with (
        preconditioner.capture(batch_of(inputs)) as capture,
        torch.autocast('cpu', torch.bfloat16),
    ):
        outputs = model(inputs)
        assert outputs.dtype == torch.bfloat16
        capture.backward_to_layers(outputs, double(6, 3, seed=1).bfloat16())
    preconditioner.update_factors(capture, 6.0, 1.0)
    preconditioner.update_inverses()
    assert preconditioner.counters['failed_inverses'] == 0
    for sides in _states(preconditioner).values():
        for side in 'ab':
            assert sides[side]['moving_average'].dtype == torch.float32
            assert sides[side]['inverse'].dtype == torch.float32


def _indefinite(factors, name='2', side=0):
    factors[name][side].diagonal(dim1=1, dim2=2).sub_(1e3)
    # The trace stays positive, as that of sums of outer products always is.
    factors[name][side][0, 0, 0] += 1e5
    return factors


class TestFailedFactorisation:
    @pytest.mark.parametrize('side', [0, 1], ids=['A', 'B'])
    def test_the_last_good_inverse_is_kept(self, side, caplog):
        settings = Settings(factor_decay=0.0, damping=1e-4)
        preconditioner = KFACPreconditioner(_model(), settings)
        _update(preconditioner, _factors(1))
        preconditioner.update_inverses()
        before = _through_file(_states(preconditioner))
        _update(preconditioner, _indefinite(_factors(2), side=side))
        with caplog.at_level(logging.WARNING):
            preconditioner.update_inverses()
        after = _states(preconditioner)
        failed = 'ab'[side]
        for key in 'ab':
            for name in '02':
                kept = torch.equal(
                    after[name][key]['inverse'], before[name][key]['inverse']
                )
                assert kept == (name == '2' and key == failed)
        assert preconditioner.counters['failed_inverses'] == 1
        assert preconditioner.counters['inverse_updates'] == 2
        (message,) = _messages(caplog)
        assert 'layer 2' in message
        assert 'kept' in message

    def test_a_negative_factor_is_no_positive_one(self):
        """Divided by its mean it would look like one."""
        settings = Settings(factor_decay=0.0)
        preconditioner = KFACPreconditioner(_model(), settings)
        _update(preconditioner, _factors(1))
        _states(preconditioner)['2']['a']['moving_average'].neg_()
        preconditioner.update_inverses()
        assert _states(preconditioner)['2']['a']['inverse'] is None
        assert preconditioner.counters['failed_inverses'] == 1

    def test_without_factors_there_is_nothing_to_invert(self):
        preconditioner = KFACPreconditioner(_model(), Settings())
        preconditioner.update_inverses()
        assert preconditioner.counters['inverse_updates'] == 1

    def test_without_one_that_side_is_left_out(self, caplog):
        settings = Settings(factor_decay=0.0, damping=1e-4)
        preconditioner = KFACPreconditioner(_model(), settings)
        _update(preconditioner, _indefinite(_factors(2)))
        with caplog.at_level(logging.WARNING):
            preconditioner.update_inverses()
        assert 'none yet' in _messages(caplog)[0]
        layer = preconditioner.layers[1]
        gradient = double(3, 4)
        inverse_b = _states(preconditioner)['2']['b']['inverse'][0]
        torch.testing.assert_close(
            preconditioner.precondition(layer, [gradient])[0], inverse_b @ gradient
        )
        assert preconditioner.curvature_scale(layer) is None


def _through_file(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _assert_same_states(left, right):
    assert left.keys() == right.keys()
    for name in left:
        for side in 'ab':
            for key, value in left[name][side].items():
                if torch.is_tensor(value):
                    assert torch.equal(value, right[name][side][key])
                else:
                    assert value == right[name][side][key]


class TestStateDict:
    def test_resumes_bit_for_bit(self):
        settings = Settings()
        preconditioner = KFACPreconditioner(_model(), settings)
        _update(preconditioner, _factors(1))
        preconditioner.update_inverses()
        _update(preconditioner, _factors(2, names=['0']))
        resumed = KFACPreconditioner(_model(), settings)
        resumed.load_state_dict(_through_file(preconditioner.state_dict()))
        _assert_same_states(_states(resumed), _states(preconditioner))
        for one in (preconditioner, resumed):
            _update(one, _factors(3))
            one.update_inverses()
        _assert_same_states(_states(resumed), _states(preconditioner))
        assert resumed.counters == preconditioner.counters

    def test_before_the_first_inverse(self):
        preconditioner = KFACPreconditioner(_model(), Settings())
        _update(preconditioner, _factors(1))
        resumed = KFACPreconditioner(_model(), Settings())
        resumed.load_state_dict(_through_file(preconditioner.state_dict()))
        _assert_same_states(_states(resumed), _states(preconditioner))

    def test_the_checkpoint_is_copied(self):
        preconditioner = KFACPreconditioner(_model(), Settings())
        _update(preconditioner, _factors(1))
        checkpoint = _through_file(preconditioner.state_dict())
        before = _average(checkpoint['layers'], '0', 'a').clone()
        resumed = KFACPreconditioner(_model(), Settings())
        resumed.load_state_dict(checkpoint)
        _update(resumed, _factors(2))
        assert torch.equal(_average(checkpoint['layers'], '0', 'a'), before)

    def test_warnings_are_not_repeated_after_a_resume(self, caplog):
        preconditioner = KFACPreconditioner(_model(), Settings())
        with caplog.at_level(logging.WARNING):
            _update(preconditioner, _factors(1, names=['0']))
            assert 'layer 2' in _messages(caplog)[0]
            resumed = KFACPreconditioner(_model(), Settings())
            resumed.load_state_dict(_through_file(preconditioner.state_dict()))
            _update(resumed, _factors(2, names=['0']))
        assert len(caplog.records) == 1

    def test_layer_that_the_model_lacks(self):
        preconditioner = KFACPreconditioner(_model(), Settings())
        _update(preconditioner, _factors(1))
        other = KFACPreconditioner(nn.Sequential(nn.Linear(5, 4)), Settings())
        with pytest.raises(ValueError, match=r"layer '2'.*it has 0"):
            other.load_state_dict(preconditioner.state_dict())
        assert not _states(other)

    @pytest.mark.parametrize(
        ('width', 'message'),
        [
            ((7, 4), r"Factor A of layer '0' has shape \(1, 6, 6\).*\(1, 8, 8\)"),
            ((5, 9), r"Factor B of layer '0' has shape \(1, 4, 4\).*\(1, 9, 9\)"),
        ],
    )
    def test_layer_of_another_shape(self, width, message):
        preconditioner = KFACPreconditioner(_model(), Settings())
        _update(preconditioner, _factors(1, names=['0']))
        other = KFACPreconditioner(nn.Sequential(nn.Linear(*width)), Settings())
        with pytest.raises(ValueError, match=message):
            other.load_state_dict(preconditioner.state_dict())


def test_who_trains_what_is_logged(caplog):
    model = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4))
    with caplog.at_level(logging.INFO, logger='absl'):
        KFACPreconditioner(model, Settings())
    text = '\n'.join(_messages(caplog))
    assert 'K-FAC trains 2 of 4 parameters' in text
    for name, _ in model.named_parameters():
        assert name in text
    assert 'LayerNorm has no Kronecker factors' in text


def test_a_side_that_always_vanishes_is_said_once(caplog):
    """Such as the gradients of a layer before a normalisation over its positions."""
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 2)).double()
    preconditioner = KFACPreconditioner(model, Settings(approximation='reduce'))
    inputs = double(6, 3, 5)
    with caplog.at_level(logging.WARNING):
        for update in range(12):
            with preconditioner.capture(batch_of(inputs)) as capture:
                hidden = model[0](inputs)
                outputs = model[1](hidden - hidden.mean(1, keepdim=True))
                capture.backward_to_layers(outputs, double(6, 3, 2, seed=1))
            preconditioner.update_factors(capture, 6.0, 1.0)
            said = [r.getMessage() for r in caplog.records if 'vanished' in r.message]
            assert len(said) == (update >= 9)
    assert 'factor B of layer 0' in said[0]
