"""What is compiled ahead is compiled once, and not in the thread that asks."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from submission.jax.program import Program

from .tiny_workload import TinyWorkload
from .training import hyperparameters, init, train


class Recording:
    """Stands for what `jax.jit` returns."""

    def __init__(self, error=None):
        self.error, self.events = error, []
        self.goes_on = threading.Event()

    def lower(self, *args):
        self.events.append(('lower', args, threading.get_ident()))
        return self

    def compile(self):
        assert self.goes_on.wait(timeout=60)
        self.events.append(('compile', threading.get_ident()))
        if self.error is not None:
            raise self.error

    def __call__(self, *args):
        self.events.append(('call', args))
        return sum(args)


def test_the_first_call_waits_for_the_compilation():
    function = Recording()
    program, own = Program(function), threading.get_ident()
    program.compile_ahead(1, 2)
    program.compile_ahead(3, 4)
    assert function.events == [('lower', (1, 2), own)]
    waiting = threading.Timer(0.05, function.goes_on.set)
    waiting.start()
    assert program(5, 6) == 11
    (_, (compiled, thread), called) = function.events
    assert compiled == 'compile'
    assert thread != own
    assert called == ('call', (5, 6))
    program.compile_ahead(7, 8)
    assert program(7, 8) == 15
    assert [event for event, *_ in function.events[3:]] == ['call']


def test_what_has_been_called_is_not_compiled_ahead():
    function = Recording()
    program = Program(function)
    program(1, 2)
    program.compile_ahead(1, 2)
    assert [event for event, *_ in function.events] == ['call']


def test_an_error_of_the_compiler_comes_out_of_the_call():
    function = Recording(ValueError('no such instruction'))
    function.goes_on.set()
    program = Program(function)
    program.compile_ahead(1, 2)
    with pytest.raises(ValueError, match='no such instruction'):
        program(1, 2)


@pytest.fixture
def compiled():
    """How often XLA has compiled anything since."""
    events = []

    def listen(event, duration_secs, **_):
        if event == '/jax/core/compile/backend_compile_duration':
            events.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return events


def test_a_call_finds_what_was_compiled(compiled):
    """JAX shares it between both ways to compile, though nowhere does it say so."""
    program = Program(jax.jit(lambda x, scale: scale * jnp.sin(x), donate_argnums=0))
    x = jax.device_put(np.ones(3))
    program.compile_ahead(x, 0.5)
    # The arguments have not been used up.
    np.testing.assert_allclose(program(x, 0.5), 0.5 * np.sin(np.ones(3)), rtol=1e-6)
    program(jax.device_put(np.ones(3)), 0.25)
    assert len(compiled) == 1
    assert program.function._cache_size() == 1


@pytest.mark.parametrize('interval', [1, 2])
def test_plain_steps_are_compiled_once(compiled, interval):
    point = hyperparameters(statistics_interval=interval, inverse_interval=interval)
    workload = TinyWorkload()
    state, params, model_state = init(workload, point)
    batches = [workload.batch(step) for step in range(5)]
    del compiled[:]
    train(workload, point, state, params, model_state, range(5), batches)
    # Statistics, inverses and what follows, and a plain step where there are any.
    assert len(compiled) == (3 if interval == 1 else 4)
