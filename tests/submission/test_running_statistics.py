"""A step that is skipped leaves batch normalisation as it was."""

import pytest
import torch
from torch import nn

from .tiny_workload import CLASSES, DIM, TinyWorkload
from .training import hyperparameters, init, train


class ReassigningNorm(nn.Module):
    """Puts a new tensor in place of its buffer, as AlgoPerf's speech models do."""

    def __init__(self):
        super().__init__()
        self.register_buffer('running_mean', torch.zeros(8))
        self.register_buffer('shape', torch.ones(8))

    def forward(self, x):
        if self.training:
            mean = x.mean((0, 1))
            self.running_mean = 0.9 * self.running_mean + 0.1 * mean.detach()
        else:
            mean = self.running_mean
        return (x - mean) * self.shape


class BatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class Model(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.first, self.norm, self.head = (
            nn.Linear(DIM, 8),
            norm,
            nn.Linear(8, CLASSES),
        )

    def forward(self, x, dropout_rate=0.0):
        del dropout_rate
        return self.head(self.norm(self.first(x)).mean(1))


def _buffers(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@pytest.mark.parametrize('approximation', ['none', 'reduce'])
@pytest.mark.parametrize('norm', [BatchNorm, ReassigningNorm])
def test_a_step_that_is_not_finite(norm, approximation):
    workload, point = TinyWorkload(), hyperparameters(approximation=approximation)
    state, model = init(workload, point, Model(norm()))
    batches = [workload.batch(step) for step in range(4)]
    batches[2]['inputs'][0, 0, 0] = float('nan')
    train(workload, point, state, model, [0], batches)
    start = _buffers(model)
    train(workload, point, state, model, [1], batches)
    before = _buffers(model)
    train(workload, point, state, model, [2], batches)
    skipped = _buffers(model)
    assert state['optimizer'].skipped_steps == 1
    train(workload, point, state, model, [3], batches)
    after = _buffers(model)
    statistics = [name for name in before if 'running' in name]
    assert statistics
    for name in statistics:
        assert not torch.equal(before[name], start[name])
        assert torch.equal(skipped[name], before[name])
        assert not torch.equal(after[name], before[name])
        assert torch.isfinite(after[name]).all()
