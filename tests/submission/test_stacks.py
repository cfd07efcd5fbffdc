"""Layers that are preconditioned together come out as each by itself."""

import pytest
import torch
from torch import nn

from submission.pytorch import preconditioner as preconditioner_module
from submission.pytorch.inverses import inverse_from_root, inverse_root
from submission.pytorch.preconditioner import KFACPreconditioner
from submission.pytorch.stacks import Stack, make_stacks
from submission.settings import Settings
from tests.experiments.step_time.workloads import tiny_workload

from .curvature import double
from .test_preconditioner import _spd, _update
from .training import hyperparameters, init, train

MODEL = {
    '0': lambda: nn.Linear(5, 4),
    '1': lambda: nn.Linear(5, 4),
    '2': lambda: nn.Linear(5, 4, bias=False),
    '3': lambda: nn.Linear(5, 4, bias=False),
    '4': lambda: nn.Conv2d(4, 6, 3, groups=2),
    '5': lambda: nn.Conv2d(4, 6, 3, groups=2),
    '6': lambda: nn.ConvTranspose2d(4, 6, (3, 2), groups=2),
    '7': lambda: nn.ConvTranspose2d(4, 6, (3, 2), groups=2),
    '8': lambda: nn.Conv1d(4, 6, 3),
    '9': lambda: nn.Linear(4, 5),
}


@pytest.fixture
def on_an_accelerator(monkeypatch):
    monkeypatch.setattr(preconditioner_module, 'gains_from_stacks', lambda layer: True)


def _preconditioner():
    torch.manual_seed(0)
    model = nn.ModuleDict({name: make() for name, make in MODEL.items()}).double()
    return KFACPreconditioner(model, Settings(damping=0.1))


def _factors(layers, seed):
    return {
        layer.name: (
            _spd(layer.groups, layer.input_dim, seed=seed + 2 * number),
            _spd(layer.groups, layer.output_dim, seed=seed + 2 * number + 1),
        )
        for number, layer in enumerate(layers)
    }


def _gradients(layers, seed=100):
    return [
        (layer, [double(*p.shape, seed=seed + number) for p in layer.parameters])
        for number, layer in enumerate(layers)
    ]


def _assert_as_each_by_itself(preconditioner, gradients):
    outcomes = preconditioner.precondition_all(gradients)
    for (layer, given), outcome in zip(gradients, outcomes, strict=True):
        expected = preconditioner.precondition(layer, given)
        assert [o.shape for o in outcome] == [p.shape for p in layer.parameters]
        for found, part in zip(outcome, expected, strict=True):
            torch.testing.assert_close(found, part)


def test_equal_shapes_share_a_stack():
    preconditioner = _preconditioner()
    layers = preconditioner.layers
    _update(preconditioner, _factors(layers, seed=1))
    preconditioner.update_inverses()
    stacks = make_stacks(
        Stack, layers, [preconditioner._factors[la.name] for la in layers]
    )
    members = [[layer.name for layer in stack.layers] for stack in stacks]
    assert members == [['0', '1'], ['2', '3'], ['4', '5'], ['6', '7'], ['8'], ['9']]


def test_new_inverses_are_used(on_an_accelerator):
    preconditioner = _preconditioner()
    gradients = _gradients(preconditioner.layers)
    _assert_as_each_by_itself(preconditioner, gradients)
    before = None
    for seed in (1, 50):
        _update(preconditioner, _factors(preconditioner.layers, seed))
        preconditioner.update_inverses()
        for _ in range(2):
            _assert_as_each_by_itself(preconditioner, gradients)
        outcome = preconditioner.precondition_all(gradients)[0][0]
        assert not torch.equal(outcome, gradients[0][1][0])
        assert before is None or not torch.equal(outcome, before)
        before = outcome


def test_layers_without_an_inverse_or_a_gradient(on_an_accelerator):
    """What is in a stack may change from one step to the next."""
    preconditioner = _preconditioner()
    layers = preconditioner.layers
    factors = _factors(layers, seed=1)
    del factors['1']
    factors['3'] = (factors['3'][0], torch.zeros_like(factors['3'][1]))
    _update(preconditioner, factors)
    preconditioner.update_inverses()
    gradients = _gradients(layers)
    for given in (gradients, gradients[2:], gradients[::2], gradients, []):
        _assert_as_each_by_itself(preconditioner, given)


def test_a_restored_state_is_used(on_an_accelerator):
    first, second = _preconditioner(), _preconditioner()
    gradients = _gradients(first.layers)
    for preconditioner, seed in ((first, 1), (second, 50)):
        _update(preconditioner, _factors(preconditioner.layers, seed))
        preconditioner.update_inverses()
        preconditioner.precondition_all(gradients)
    second.load_state_dict(first.state_dict())
    for found, expected in zip(
        second.precondition_all(gradients),
        first.precondition_all(gradients),
        strict=True,
    ):
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize('rule', ['nadamw', 'momentum', 'grafted'])
def test_training_is_the_same(rule, monkeypatch):
    outcomes = []
    for stacked in (False, True):
        monkeypatch.setattr(
            preconditioner_module, 'gains_from_stacks', lambda layer, s=stacked: s
        )
        workload = tiny_workload('pytorch')
        point = hyperparameters(
            approximation='expand',
            first_order_rule=rule,
            learning_rate=1e-3,
            statistics_interval=2,
            inverse_interval=2,
        )
        state, model = init(workload, point)
        queue = workload._build_input_queue([3, 4], 'train', None, 8)
        train(workload, point, state, model, range(6), [next(queue) for _ in range(6)])
        outcomes.append(list(model.parameters()))
    for alone, together in zip(*outcomes, strict=True):
        torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)


def test_inverses_by_roots():
    """What an accelerator computes in place of `cholesky_inverse`."""
    matrices = torch.stack([_spd(2, 7, seed=seed) for seed in range(3)])
    found = inverse_from_root(inverse_root(torch.linalg.cholesky(matrices)))
    torch.testing.assert_close(found, torch.linalg.inv(matrices))
