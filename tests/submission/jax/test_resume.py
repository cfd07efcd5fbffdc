"""The state is a tree of arrays, and a run that is restored from it goes on."""

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from .tiny_workload import TinyModel, TinyWorkload
from .training import hyperparameters, init, train

STEPS, AT = 7, 3


def _point(**changes):
    return hyperparameters(
        dropout_rate=0.3, statistics_interval=2, inverse_interval=3, **changes
    )


def _workload():
    return TinyWorkload(model=TinyModel(batch_norm=True))


def _assert_equal(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def _through_bytes(tree, like):
    """As a checkpoint is written and read."""
    encoded = flax.serialization.to_bytes(tree)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    return flax.serialization.from_bytes(zeros, encoded)


@pytest.mark.parametrize(
    'changes',
    [
        {'first_order_rule': 'grafted'},
        {'first_order_rule': 'spectral'},
        {'approximation': 'expand', 'fisher_type': 'empirical'},
        {'approximation': 'expand', 'statistics_stride': 3},
        {'averaging_power': 4},
        {'approximation': 'none'},
    ],
    ids=[
        'reduce, grafted',
        'reduce, spectral',
        'expand',
        'expand, every third position',
        'averaged',
        'NAdamW',
    ],
)
def test_goes_on_bit_for_bit(changes):
    """From plain arrays, and from AlgoPerf's copies along a leading axis."""
    workload, point = _workload(), _point(**changes)
    (state, steps), params, model_state = init(workload, point)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    empty = jax.tree.map(np.array, (state, params, model_state))
    found = train(workload, point, (state, steps), params, model_state, range(AT))
    checkpoint = found[0][0], *found[1:]
    saved = _through_bytes(checkpoint, empty)
    _assert_equal(saved, checkpoint)
    (state, _), params, model_state = train(workload, point, *found, range(AT, STEPS))
    expected = jax.tree.map(np.array, (state, params, model_state))
    for restored in (saved, jax.tree.map(lambda leaf: jnp.stack([leaf]), saved)):
        state, params, model_state = restored
        (state, _), params, model_state = train(
            workload, point, (state, steps), params, model_state, range(AT, STEPS)
        )
        _assert_equal((state, params, model_state), expected)
    has_kfac = int(state.kfac is not None)
    parts = (steps.plain, steps.apply, steps.statistics, steps.inverses)
    assert [part._cache_size() for part in parts] == [1, has_kfac, has_kfac, has_kfac]


class EmptyState(TinyWorkload):
    """Begins with an empty state and returns none, as AlgoPerf's ViT does."""

    def init_model_fn(self, rng):
        return super().init_model_fn(rng)[0], {}

    def model_fn(self, *args, **kwargs):
        return super().model_fn(*args, **kwargs)[0], None


@pytest.mark.parametrize('changes', [{}, {'averaging_power': 4}])
def test_a_state_without_arrays_keeps_its_form(changes):
    """So that nothing is compiled twice, and what is saved can be restored."""
    workload, point = EmptyState(), _point(**changes)
    (state, steps), params, model_state = init(workload, point)
    assert model_state == {}
    empty = jax.tree.map(np.array, (state, params, model_state))
    found = train(workload, point, (state, steps), params, model_state, range(STEPS))
    checkpoint = found[0][0], *found[1:]
    assert jax.tree.structure(checkpoint) == jax.tree.structure(empty)
    _assert_equal(_through_bytes(checkpoint, empty), checkpoint)
    parts = (steps.plain, steps.apply, steps.statistics, steps.inverses)
    assert [part._cache_size() for part in parts] == [1, 1, 1, 1]
