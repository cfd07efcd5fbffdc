"""A plain step never makes the host wait for the device, other steps seldom."""

import pytest
import torch
from torch.nn import functional

from .host_reads import host_reads
from .tiny_workload import TinyWorkload
from .training import hyperparameters, init, train


@pytest.mark.parametrize(
    'read',
    [
        lambda x: x[0].item(),
        lambda x: bool(x[0] > 0),
        lambda x: float(x[0]),
        lambda x: int(x[0]),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
    ],
    ids=['item', 'bool', 'float', 'int', 'tolist', 'numpy', 'nonzero', 'mask'],
)
def test_reads_are_seen(read):
    with host_reads() as reads:
        read(torch.ones(3))
    assert len(reads) == 1


class QuietWorkload(TinyWorkload):
    """Its loss reads nothing, unlike `one_hot`, which checks its input on a CPU."""

    def loss_fn(self, label_batch, logits_batch, mask_batch=None, label_smoothing=0.0):
        losses = functional.cross_entropy(logits_batch, label_batch, reduction='none')
        if mask_batch is None:
            return {'summed': losses.sum(), 'n_valid_examples': len(losses)}
        losses = losses * mask_batch
        return {'summed': losses.sum(), 'n_valid_examples': mask_batch.sum()}


@pytest.mark.parametrize('rule', ['nadamw', 'momentum', 'grafted', 'spectral'])
@pytest.mark.parametrize('approximation', ['none', 'reduce', 'expand'])
@pytest.mark.parametrize('is_finite', [True, False], ids=['finite', 'not finite'])
def test_plain_steps_read_nothing(rule, approximation, is_finite):
    workload = QuietWorkload()
    point = hyperparameters(
        approximation=approximation,
        first_order_rule=rule,
        statistics_interval=100,
        inverse_interval=100,
        grad_clip=0.5,
        dropout_rate=0.1,
        averaging_power=8.0,
    )
    state, model = init(workload, point)
    train(workload, point, state, model, range(2))
    batches = {step: workload.batch(step, weighted=True) for step in (2, 3)}
    if not is_finite:
        batches[3]['inputs'][0, 0, 0] = float('nan')
    with host_reads() as reads:
        train(workload, point, state, model, (2, 3), batches)
    assert not reads
    assert state['optimizer'].skipped_steps == (not is_finite)


def _reads_at(step, **changes):
    workload = QuietWorkload()
    point = hyperparameters(approximation='expand', **changes)
    state, model = init(workload, point)
    train(workload, point, state, model, range(step))
    batches = {step: workload.batch(step)}
    with host_reads() as reads:
        train(workload, point, state, model, [step], batches)
    return reads


def test_all_inverses_together_read_once():
    reads = _reads_at(2, statistics_interval=100, inverse_interval=2)
    assert reads == ['tolist']


def test_all_statistics_together_read_once():
    """What else is read is how the batch is padded, once for all layers."""
    reads = _reads_at(2, statistics_interval=2, inverse_interval=100)
    assert reads.count('tolist') == 1
    assert len(reads) <= 4
