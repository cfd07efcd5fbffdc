"""Moments whose steps the device alone counts."""

import pytest
import torch

from submission.pytorch.moments import Moments

from .curvature import double

YES, NO = torch.tensor(True), torch.tensor(False)
CPU = torch.device('cpu')


def _updates(moments, seed, counts=YES, spoilt=False):
    gradients = {'a': double(3, 2, seed=seed), 'b': double(4, seed=seed + 50)}
    if spoilt:
        gradients['a'][0, 0] = float('nan')
    return moments.updates(gradients, 0.9, 0.99, counts)


def _copy(state):
    return {
        'first': {name: value.clone() for name, value in state['first'].items()},
        'squares': {name: value.clone() for name, value in state['squares'].items()},
        'steps': state['steps'].clone(),
    }


def _assert_equal(left, right):
    for key in ('first', 'squares'):
        assert left[key].keys() == right[key].keys()
        for name, value in left[key].items():
            assert torch.equal(value, right[key][name])
    assert left['steps'] == right['steps']


@pytest.mark.parametrize('second', [True, False], ids=['NAdamW', 'momentum'])
class TestStepsThatDoNotCount:
    def test_nothing_moves(self, second):
        moments = Moments(['a', 'b'], CPU, second=second)
        _updates(moments, 0)
        before = _copy(moments.state_dict())
        directions = _updates(moments, 1, NO, spoilt=True)
        for direction in directions.values():
            assert not direction.any()
        _assert_equal(moments.state_dict(), before)

    def test_before_the_first(self, second):
        skipped, plain = (Moments(['a', 'b'], CPU, second=second) for _ in range(2))
        directions = _updates(skipped, 1, NO, spoilt=True)
        for direction in directions.values():
            assert not direction.any()
        left, right = _updates(skipped, 0), _updates(plain, 0)
        for name in left:
            assert torch.equal(left[name], right[name])

    def test_without_decay_of_the_second_moment(self, second):
        moments = Moments(['a', 'b'], CPU, second=second)
        gradients = {'a': double(3, 2)}
        moments.updates(gradients, 0.0, 0.0, NO)
        updates = moments.updates(gradients, 0.0, 0.0, YES)
        expected = gradients['a'].sign() if second else gradients['a']
        torch.testing.assert_close(updates['a'], expected)


def test_steps_of_an_older_checkpoint_are_a_number():
    moments = Moments(['a', 'b'], CPU, second=True)
    _updates(moments, 0)
    state = {**_copy(moments.state_dict()), 'steps': 1}
    resumed = Moments(['a', 'b'], CPU, second=True)
    resumed.load_state_dict(state, {'a': CPU, 'b': CPU})
    left, right = _updates(moments, 1), _updates(resumed, 1)
    for name in left:
        assert torch.equal(left[name], right[name])
