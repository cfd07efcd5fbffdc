"""The learning rate of every step, and the weight decay of a schedule."""

import dataclasses
import warnings

import pytest
import torch
from torch.optim import lr_scheduler

from submission.schedule import learning_rate_at, with_scheduled_weight_decay
from submission.settings import Settings


def _torch_rates(peak, warmup_factor, steps):
    """AlgoPerf's schedule, put together from torch's as its baseline does."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    warmup_steps = int(warmup_factor * steps)
    with warnings.catch_warnings():
        # Schedulers in a sequence are stepped as they are made.
        warnings.simplefilter('ignore')
        schedule = cosine = lr_scheduler.CosineAnnealingLR(
            optimizer, T_max=max(steps - warmup_steps, 1)
        )
        # A sequence never leaves a first part of no steps in torch 2.5.
        if warmup_steps:
            warmup = lr_scheduler.LinearLR(
                optimizer, start_factor=1e-10, end_factor=1.0, total_iters=warmup_steps
            )
            schedule = lr_scheduler.SequentialLR(
                optimizer, [warmup, cosine], milestones=[warmup_steps]
            )
        rates = []
        for _ in range(steps + 1):
            rates.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            schedule.step()
    return rates


@pytest.mark.parametrize(
    ('peak', 'warmup_factor', 'steps'),
    [(1e-2, 0.05, 200), (3.0, 0.5, 101), (1e-3, 0.01, 50), (0.7, 0.99, 100)],
)
def test_equal_to_torch_over_the_whole_schedule(peak, warmup_factor, steps):
    expected = _torch_rates(peak, warmup_factor, steps)
    found = [learning_rate_at(s, peak, warmup_factor, steps) for s in range(steps + 1)]
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12 * peak)


def test_ends():
    assert learning_rate_at(0, 2.0, 0.1, 100) == pytest.approx(2e-10)
    assert learning_rate_at(10, 2.0, 0.1, 100) == 2.0
    assert learning_rate_at(0, 2.0, 0.0, 100) == 2.0


@pytest.mark.parametrize('step', [100, 101, 150, 190, 10**6])
def test_zero_after_the_end(step):
    assert learning_rate_at(step, 2.0, 0.1, 100) == 0.0


@pytest.mark.parametrize('steps', [0, 1])
def test_very_short_schedules(steps):
    assert learning_rate_at(0, 2.0, 0.5, steps) == 2.0
    assert learning_rate_at(1, 2.0, 0.5, steps) == 0.0


@pytest.mark.parametrize(
    ('step_hint_factor', 'step_hint', 'exponent', 'expected'),
    [
        (1.0, 4000, 0.0, 0.2),
        (1.0, 4000, 0.5, 0.1),
        (1.0, 4000, 1.0, 0.05),
        (0.5, 4000, 1.0, 0.1),
        (1.0, 1000, 1.0, 0.2),
        (1.0, 100, 1.0, 0.2),
    ],
)
def test_weight_decay_of_longer_schedules(
    step_hint_factor, step_hint, exponent, expected
):
    settings = Settings(
        weight_decay=0.2,
        weight_decay_exponent=exponent,
        step_hint_factor=step_hint_factor,
    )
    found = with_scheduled_weight_decay(settings, step_hint)
    assert found.weight_decay == pytest.approx(expected)
    # Nothing else changes, and a second time nothing at all.
    unchanged = {'weight_decay': 0.2, 'weight_decay_exponent': exponent}
    assert dataclasses.replace(found, **unchanged) == settings
    assert with_scheduled_weight_decay(found, step_hint) == found
