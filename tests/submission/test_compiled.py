"""Compiled models are compiled once: statistics steps go around the compiled code."""

import shutil

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from .tiny_workload import TinyModel, TinyWorkload
from .training import hyperparameters, init, train

STEPS = 12
BACKENDS = [
    'aot_eager',
    pytest.param(
        'inductor',
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(
                shutil.which('g++') is None, reason='inductor needs a C++ compiler'
            ),
        ],
    ),
]


@pytest.fixture(autouse=True)
def _no_memory_of_other_tests():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Model(TinyModel):
    """Keeps no list of hooks, which would be a side effect to compile."""

    def forward(self, x, dropout_rate=0.0):
        x = torch.tanh(self.norm(self.first(x)))
        x = nn.functional.dropout(x, dropout_rate, self.training)
        return self.head(torch.tanh(self.second(x)).mean(1))


class Workload(TinyWorkload):
    def init_model_fn(self, rng):
        torch.manual_seed(int(rng[0]))
        return Model(), None


def _run(backend, wrap=lambda model: model, **changes):
    """Trains and returns the number of graphs after each step, model and state."""
    workload = Workload()
    point = hyperparameters(statistics_interval=3, inverse_interval=3, **changes)
    model, _ = workload.init_model_fn((0, 1))
    counter = None if backend is None else CompileCounterWithBackend(backend)
    wrapped = wrap(model)
    if counter is not None:
        wrapped = torch.compile(wrapped, backend=counter)
    state, _ = init(workload, point, wrapped)
    graphs = []
    for step in range(STEPS):
        train(workload, point, state, wrapped, [step])
        graphs.append(0 if counter is None else counter.frame_count)
    return graphs, model, state


@pytest.mark.parametrize('backend', BACKENDS)
def test_trains_as_without_compilation(backend):
    _, compiled, _ = _run(backend)
    _, plain, _ = _run(None)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value)


@pytest.mark.parametrize('approximation', ['reduce', 'expand'])
@pytest.mark.parametrize('fisher_type', ['empirical', 'monte_carlo'])
def test_compiles_at_the_first_plain_step_and_never_again(approximation, fisher_type):
    graphs, _, state = _run(
        'eager', approximation=approximation, fisher_type=fisher_type
    )
    # Steps 0 and 1 are statistics steps, and so are 3, 6 and 9.
    assert graphs == [0, 0] + [1] * (STEPS - 2)
    assert state['preconditioner'].counters['factor_updates'] == 5


def test_as_often_as_nadamw_compiles():
    graphs, _, _ = _run('eager', approximation='none')
    assert graphs == [1] * STEPS


def test_data_parallel():
    graphs, _, _ = _run('eager', nn.DataParallel)
    assert graphs[2] == graphs[-1]


def _compiled_in_place(model):
    model.compile(backend='eager')
    return model


def _compiled_block(model):
    model.second.compile(backend='eager')
    return model


def _compiled_inside(model):
    return nn.DataParallel(torch.compile(model, backend='eager'))


@pytest.mark.parametrize('fisher_type', ['empirical', 'monte_carlo'])
@pytest.mark.parametrize(
    'wrap', [_compiled_in_place, _compiled_block, _compiled_inside]
)
def test_parts_compiled_before_the_first_statistics_step(wrap, fisher_type):
    """As in a run that is resumed: code compiled without hooks never sees them."""
    workload = Workload()
    point = hyperparameters(statistics_interval=4, fisher_type=fisher_type)
    model, _ = workload.init_model_fn((0, 1))
    wrapped = wrap(model)
    state, _ = init(workload, point, wrapped)
    train(workload, point, state, wrapped, [2, 3, 4])
    layers = state['preconditioner'].state_dict()['layers']
    assert layers.keys() == {'first', 'second', 'head'}


def test_plain_steps_run_the_compiled_code():
    """All of them, and no statistics step."""
    calls = []

    def backend(graph, inputs):
        del inputs

        def run(*args):
            calls.append(step)
            return graph.forward(*args)

        return run

    workload = Workload()
    point = hyperparameters(statistics_interval=3, inverse_interval=3)
    model, _ = workload.init_model_fn((0, 1))
    compiled = torch.compile(model, backend=backend)
    state, _ = init(workload, point, compiled)
    for step in range(STEPS):
        train(workload, point, state, compiled, [step])
    assert calls == [2, 4, 5, 7, 8, 10, 11]
