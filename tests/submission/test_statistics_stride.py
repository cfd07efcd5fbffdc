"""K-FAC-expand's factors from some of the positions."""

import functools
import types

import numpy as np
import pytest
import torch
from torch import nn

from experiments.exactness import make_sums
from submission.pytorch.capture import Capture
from submission.pytorch.layers import assign_parameters
from submission.pytorch.preconditioner import KFACPreconditioner
from submission.pytorch.weight_sharing import BatchStructure
from submission.settings import Settings

from .chosen_rows import CASES, D_IN, D_OUT, STRIDES, UPDATES, factors
from .curvature import double

LOSS_TERMS = 7.0
CLOSE = {'rtol': 1e-12, 'atol': 1e-12}


def _graphs(n_node, n_edge):
    return types.SimpleNamespace(
        n_node=torch.tensor(n_node), n_edge=torch.tensor(n_edge)
    )


def _batch(case):
    return {
        key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        for key, value in case.full_batch(_graphs).items()
    }


def _captured(model, batch, stride, cotangent, update=0):
    """The factor sums, from gradients of the outputs."""
    layers, _ = assign_parameters(model, 1024)
    empty = functools.partial(
        make_sums, approximation='expand', normalisation='mean_inputs'
    )
    structure = BatchStructure.from_batch(batch, stride, update)
    with Capture(layers, structure, empty) as capture:
        outputs = model(batch['inputs'])
        capture.backward_to_layers(outputs, cotangent(outputs.detach()))
    assert not capture.errors
    return capture.sums()


class _Layer(nn.Module):
    """A layer on values that are not the batch's inputs."""

    def __init__(self, values):
        super().__init__()
        self.layer, self.values = nn.Linear(D_IN, D_OUT).double(), values

    def forward(self, _):
        return self.layer(self.values)


@pytest.mark.parametrize('update', UPDATES)
@pytest.mark.parametrize('stride', STRIDES)
@pytest.mark.parametrize('case', CASES)
def test_against_loops_over_the_taken_rows(case, stride, update):
    case = CASES[case]
    inputs, gradients = map(torch.from_numpy, case.values())
    sums = _captured(_Layer(inputs), _batch(case), stride, lambda _: gradients, update)
    found = sums['layer'].kronecker_factors(LOSS_TERMS)
    expected = factors(case, stride, update, LOSS_TERMS)
    for side, factor in zip(found, expected, strict=True):
        np.testing.assert_allclose(side[0], factor, **CLOSE)


@pytest.mark.parametrize('stride', [2, 3, 5, 50])
def test_positions_all_alike(stride):
    """The scale of both factors does not depend on the stride."""
    model = nn.Linear(D_IN, D_OUT).double()
    batch = {
        'inputs': double(10, 1, D_IN).expand(-1, 5, -1),
        'targets': torch.zeros(10),
        'weights': torch.tensor([1.0] * 8 + [0.0] * 2),
    }
    found, expected = (
        _captured(model, batch, k, lambda outputs: outputs)[''] for k in (stride, 1)
    )
    for side, other in zip(
        found.kronecker_factors(LOSS_TERMS),
        expected.kronecker_factors(LOSS_TERMS),
        strict=True,
    ):
        torch.testing.assert_close(side, other, **CLOSE)


class _UsedTwice(nn.Module):
    """A convolution over time that is used twice, at other numbers of positions."""

    def __init__(self):
        super().__init__()
        self.time = nn.Conv1d(4, 4, 3)
        self.double()

    def forward(self, x):
        return self.time(torch.tanh(self.time(x)))


def test_each_use_of_a_layer_is_scaled_for_itself():
    model, inputs = _UsedTwice(), double(6, 4, 9)
    first = torch.tanh(model.time(inputs)).detach().requires_grad_()
    batch = {'inputs': inputs, 'targets': torch.zeros(6)}
    found = _captured(model, batch, 2, torch.square)['time']
    outputs = model.time(first)
    upper = torch.square(outputs.detach())
    (lower,) = torch.autograd.grad(outputs, first, upper)
    lower = lower * (1 - first**2)
    expected = 0.0
    # Seven positions of which four are taken, and five of which three are.
    for gradients, weight in ((lower, 7 / 4), (upper, 5 / 3)):
        rows = gradients.detach()[:, :, ::2].transpose(1, 2).flatten(0, 1)
        expected = expected + weight * rows.T @ rows
    torch.testing.assert_close(found.gradients[0], expected, **CLOSE)
    assert found.input_count == 6 * (4 + 3)


@pytest.mark.parametrize('n_queries', [1, 3])
def test_all_rows_of_a_learnt_query_are_taken(n_queries):
    """It has no examples, so its rows are not the positions of any."""

    class WithQuery(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.own = nn.Linear(D_IN, D_OUT), nn.Linear(D_IN, D_OUT)
            self.query = nn.Parameter(double(n_queries, 2, D_IN))
            self.double()

        def forward(self, x):
            return self.layer(x) + self.own(self.query).sum((0, 1))

    model = WithQuery()
    batch = {'inputs': double(4, 5, D_IN), 'targets': torch.zeros(4)}
    found, expected = (
        _captured(model, batch, k, torch.ones_like)['own'] for k in (3, 1)
    )
    for name in ('inputs', 'input_count', 'gradients'):
        assert torch.equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize('stride', [2, 3, 4, 7])
def test_updates_take_all_positions_equally_often(stride):
    """Whatever factor the stride and the number of positions have in common."""
    n_positions = 6
    model = nn.Linear(n_positions, D_OUT).double()
    # A position's input says which it is.
    inputs = torch.eye(n_positions).double().expand(2, -1, -1)
    batch = {'inputs': inputs, 'targets': torch.zeros(2)}
    preconditioner = KFACPreconditioner(
        model, Settings(approximation='expand', statistics_stride=stride)
    )
    seen = torch.zeros(n_positions).double()
    for _ in range(n_positions):
        with preconditioner.capture(batch) as capture:
            outputs = model(inputs)
            capture.backward_to_layers(outputs, torch.ones_like(outputs))
        seen += capture.sums()[''].inputs[0].diagonal()[:-1]
        preconditioner.update_factors(capture, 2.0, 1.0)
    # Two examples, and in each update one position or more.
    taken = -(-n_positions // stride)
    torch.testing.assert_close(seen, torch.full_like(seen, 2.0 * taken))


@pytest.mark.parametrize(
    ('approximation', 'counts'), [('expand', [35, 14]), ('reduce', [7, 7])]
)
def test_preconditioner_takes_the_stride_from_its_settings(approximation, counts):
    model = nn.Linear(D_IN, D_OUT).double()
    batch = {'inputs': double(7, 5, D_IN), 'targets': torch.zeros(7)}
    found = []
    for stride in (1, 3):
        settings = Settings(approximation=approximation, statistics_stride=stride)
        with KFACPreconditioner(model, settings).capture(batch) as capture:
            capture.backward_to_layers(model(batch['inputs']), double(7, 5, D_OUT))
        found.append(int(capture.sums()[''].input_count))
    assert found == counts
