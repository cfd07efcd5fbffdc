"""Layers with more inputs learn at a smaller rate."""

import pytest
import torch

from submission import fan_in
from submission.fan_in import learning_rate_scale
from submission.pytorch.first_order import FirstOrderOptimizer
from submission.pytorch.preconditioner import KFACPreconditioner

from .test_first_order import _gradients, _model, _set_gradients, _settings, _values


@pytest.mark.parametrize(
    ('inputs', 'exponent', 'expected'),
    [
        (16, 1.0, 1.0),
        (64, 1.0, 1.0),
        (256, 1.0, 0.25),
        (256, 0.5, 0.5),
        (256, 0.0, 1.0),
        (0, 1.0, 1.0),
    ],
)
def test_scale(inputs, exponent, expected):
    assert learning_rate_scale(inputs, exponent) == expected


@pytest.mark.parametrize('rule', ['nadamw', 'momentum', 'grafted', 'spectral'])
def test_updates_of_wide_layers_are_smaller(rule, monkeypatch):
    """What decays a weight, and parameters outside these layers, stay as they are."""
    monkeypatch.setattr(fan_in, 'REFERENCE_FAN_IN', 4)
    moved = []
    for exponent in (0.0, 1.0):
        model = _model()
        settings = _settings(
            approximation='expand', first_order_rule=rule, fan_in_exponent=exponent
        )
        preconditioner = KFACPreconditioner(model, settings)
        optimizer = FirstOrderOptimizer(model, settings, preconditioner)
        before = _values(model)
        _set_gradients(model, _gradients(model, 0))
        optimizer.step(0.1)
        decay = 1.0 - 0.1 * settings.weight_decay
        moved.append(
            {
                name: value - decay * before[name]
                for name, value in _values(model).items()
            }
        )
    without, with_exponent = moved
    for name, update in without.items():
        scale = 0.8 if name.startswith('linear') else 1.0
        torch.testing.assert_close(with_exponent[name], scale * update)
