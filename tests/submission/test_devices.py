"""Parts of a batch may lie on other devices than the model does."""

import types

import pytest
import torch
from torch import nn

from submission.likelihood import Likelihood
from submission.pytorch import labels
from submission.pytorch.approximations import ExpandSums, ReduceSums
from submission.pytorch.preconditioner import KFACPreconditioner
from submission.pytorch.weight_sharing import BatchStructure
from submission.settings import Settings

from .pretended_devices import HOST, PretendedDevices, put

CARD, OTHER_CARD = torch.device('cuda', 1), torch.device('cuda', 0)
LENGTH, D = 6, 3


def signals(device):
    """AlgoPerf's PyTorch speech workloads move batches within `model_fn`."""
    padding = torch.zeros(4, 12)
    padding[1, 6:] = 1
    targets = (put(torch.ones(4, 5), device), put(torch.zeros(4, 5), device))
    inputs = (put(torch.zeros(4, 12), device), put(padding, device))
    return {'inputs': inputs, 'targets': targets}


def tokens(device):
    targets = torch.ones(4, LENGTH, dtype=torch.long)
    weights = torch.ones(4, LENGTH)
    weights[2, 3:] = 0
    return {
        'inputs': put(targets.clone(), device),
        'targets': put(targets, device),
        'weights': put(weights, device),
    }


def examples(device):
    batch = {'inputs': put(torch.zeros(4, D), device)}
    return {
        **batch,
        'targets': put(torch.zeros(4), device),
        'weights': put(torch.tensor([1.0, 1.0, 0.0, 1.0]), device),
    }


def without_weights(device):
    batch = examples(device)
    del batch['weights']
    return batch


def graphs(device, weights_on=CARD):
    """AlgoPerf sends graphs as objects, so that they come to the sender's device."""
    return {
        'inputs': types.SimpleNamespace(
            n_node=put(torch.tensor([3, 5, 2]), device),
            n_edge=put(torch.tensor([4, 9, 2]), device),
        ),
        'targets': put(torch.zeros(3, 2), weights_on),
        'weights': put(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]), weights_on),
    }


def graphs_without_weights(device):
    batch = graphs(device)
    del batch['weights']
    return batch


every_batch = pytest.mark.parametrize(
    ('make_batch', 'shape'),
    [
        (signals, (4, LENGTH, 1, D)),
        (tokens, (4, LENGTH, 1, D)),
        (examples, (4, LENGTH, 1, D)),
        (without_weights, (4, LENGTH, 1, D)),
        (graphs, (10, 1, D)),
        (graphs, (15, 1, D)),
        (graphs_without_weights, (10, 1, D)),
    ],
)
every_sum = pytest.mark.parametrize(
    'make_sums',
    [lambda: ExpandSums(True), lambda: ReduceSums(True, 'mean_inputs')],
    ids=['expand', 'reduce'],
)


def sums_of(structure, make_sums, shape):
    generator = torch.Generator().manual_seed(0)
    inputs, gradients = (torch.randn(shape, generator=generator) for _ in range(2))
    sums = make_sums()
    sums.add_inputs(structure.to_weight_sharing_format(put(inputs, CARD)))
    sums.add_gradients(structure.to_weight_sharing_format(put(gradients, CARD)))
    return sums.sums()


@every_batch
@every_sum
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('device', [HOST, OTHER_CARD, CARD])
def test_sums_are_where_the_layers_are(make_batch, shape, make_sums, stride, device):
    expected = sums_of(
        BatchStructure.from_batch(make_batch(HOST), stride), make_sums, shape
    )
    with PretendedDevices():
        structure = BatchStructure.from_batch(make_batch(device), stride, 0, CARD)
        found = sums_of(structure, make_sums, shape)
        for field in ('inputs', 'input_count', 'gradients'):
            assert getattr(found, field).device == CARD
    for field in ('inputs', 'input_count', 'gradients'):
        assert torch.equal(getattr(found, field), getattr(expected, field))


@pytest.mark.parametrize(
    ('make_batch', 'device', 'shape'),
    [(signals, HOST, (4, LENGTH, 1, D)), (graphs, OTHER_CARD, (10, 1, D))],
)
def test_a_batch_that_stays_elsewhere_fails(make_batch, device, shape):
    def build_and_sum():
        structure = BatchStructure.from_batch(make_batch(device))
        sums_of(structure, lambda: ReduceSums(True, 'mean_inputs'), shape)

    with PretendedDevices(), pytest.raises(RuntimeError, match='the same device'):
        build_and_sum()


@pytest.mark.parametrize('approximation', ['expand', 'reduce'])
def test_the_preconditioner_knows_where_its_layers_are(approximation):
    model = nn.Sequential(nn.Linear(D, 2))
    preconditioner = KFACPreconditioner(model, Settings(approximation=approximation))
    with PretendedDevices():
        for parameter in model.parameters():
            put(parameter, CARD)
        with preconditioner.capture(signals(HOST)) as capture:
            outputs = model(put(torch.randn(4, LENGTH, D), CARD))
        assert outputs.device == CARD
    assert capture.errors == {}


def test_weights_of_labels_come_to_the_outputs():
    with PretendedDevices():
        outputs = put(torch.zeros(4, LENGTH, D), CARD)
        gradient = labels.sampled_output_gradient(
            Likelihood.CATEGORICAL,
            outputs,
            tokens(HOST),
            torch.Generator().manual_seed(0),
        )
        assert gradient.device == CARD
