"""Models as the harness wraps them."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from submission.pytorch.wrappers import GivenModel, for_statistics, unwrap


def _compiled(model):
    return torch.compile(model, backend='eager')


def _distributed(model):
    """A wrapper without the process group that its constructor asks for."""
    wrapper = DistributedDataParallel.__new__(DistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = model
    return wrapper


WRAPPERS = {
    'plain': (),
    'data parallel': (DataParallel,),
    'distributed': (_distributed,),
    'compiled': (_compiled,),
    'compiled data parallel': (DataParallel, _compiled),
    'compiled distributed': (_distributed, _compiled),
}


def _wrap(model, wrappers):
    for wrapper in wrappers:
        model = wrapper(model)
    return model


@pytest.mark.parametrize('wrappers', WRAPPERS.values(), ids=WRAPPERS)
def test_unwrap(wrappers):
    model = nn.Linear(2, 2)
    assert unwrap(_wrap(model, wrappers)) is model


@pytest.mark.parametrize('wrappers', WRAPPERS.values(), ids=WRAPPERS)
def test_for_statistics(wrappers):
    """Hooks have to be seen, and gradients averaged over processes all the same."""
    model = nn.Linear(2, 2)
    found = for_statistics(_wrap(model, wrappers))
    if _distributed in wrappers:
        assert isinstance(found, DistributedDataParallel)
        assert found.module is model
    else:
        assert found is model


def test_a_wrapper_that_was_taken_off_comes_back():
    model = nn.Linear(2, 2)
    wrapper = _distributed(model)
    given = GivenModel(wrapper)
    assert given.wrapped(wrapper) is wrapper
    assert given.wrapped(model) is wrapper
    other = nn.Linear(2, 2)
    assert given.wrapped(other) is other
    given.load_state_dict(given.state_dict())
    assert given.wrapped(model) is wrapper


@pytest.mark.parametrize('wrappers', [(), (DataParallel,)])
def test_other_models_are_as_given(wrappers):
    model = nn.Linear(2, 2)
    wrapped = _wrap(model, wrappers)
    given = GivenModel(wrapped)
    assert given.wrapped(wrapped) is wrapped
    assert given.wrapped(model) is model
