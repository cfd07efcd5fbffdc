import zipfile
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import logging
from flax import serialization

from tests.workloads_overrides.runner.damage import KINDS, damage
from workloads_overrides.jax_sharding import replicated_sharding
from workloads_overrides.runner import global_rng
from workloads_overrides.runner.checkpoints import restore_checkpoint, save_checkpoint
from workloads_overrides.runner.errors import RunnerError
from workloads_overrides.runner.jax_framework import JaxFramework
from workloads_overrides.runner.state import RunnerState, TrainingState

JAX = JaxFramework()


class Extra(NamedTuple):
    factors: tuple
    mask: jax.Array
    count: int


def update_fn():
    raise AssertionError('only the tree is saved')


def new_state(fill=0.0):
    params = {'dense': {'kernel': jnp.full((2, 1), fill), 'bias': jnp.zeros(1)}}
    params = jax.device_put(params, replicated_sharding())
    tree = {
        'adam': optax.adam(1e-3).init(params),
        'extra': Extra(
            (jnp.eye(2) * fill, jnp.full(3, fill, jnp.bfloat16)),
            jnp.array([True, False]),
            int(fill),
        ),
        'nothing': None,
    }
    return TrainingState((tree, update_fn), params, None)


def save(folder, step, keep_older=True, **runner_state):
    state = new_state(fill=step + 0.1)
    state.global_step = step
    state.eval_results.append((step, {'validation/accuracy': 0.1 + 0.2}))
    state.train_state['accumulated_submission_time'] = 1 / 3
    save_checkpoint(
        JAX,
        folder,
        state,
        RunnerState(rng=global_rng.get_state(JAX), **runner_state),
        keep_older=keep_older,
    )
    return state


def assert_equal_trees(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert type(a) is type(b)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
        if isinstance(a, jax.Array):
            assert a.dtype == b.dtype


def test_content_comes_back(tmp_path):
    saved = save(
        tmp_path,
        5,
        batches_drawn=8,
        rows=(3, 2),
        compilations=[(1, 0.5)],
        is_final=True,
    )
    state = new_state()
    runner_state = restore_checkpoint(JAX, tmp_path, state)
    assert (runner_state.batches_drawn, runner_state.rows) == (8, (3, 2))
    assert runner_state.is_final
    assert [tuple(entry) for entry in runner_state.compilations] == [(1, 0.5)]
    assert_equal_trees(state.model_params, saved.model_params)
    assert_equal_trees(state.optimizer_state[0], saved.optimizer_state[0])
    assert state.optimizer_state[1] is update_fn
    assert state.model_state is None
    assert state.eval_results == [(5, {'validation/accuracy': 0.1 + 0.2})]
    assert state.train_state == saved.train_state
    assert (state.global_step, state.preemption_count) == (5, 1)


def test_arrays_are_laid_out_as_after_a_step(tmp_path):
    save(tmp_path, 5)
    state = new_state()
    restore_checkpoint(JAX, tmp_path, state)
    trees = (state.model_params, state.optimizer_state[0])
    arrays = [x for x in jax.tree.leaves(trees) if isinstance(x, jax.Array)]
    assert len(arrays) == 10
    for array in arrays:
        assert array.sharding == replicated_sharding()
        assert array.committed


def test_generators_come_back(tmp_path):
    global_rng.seed(JAX, 5)
    np.random.standard_normal()
    saved = RunnerState(rng=global_rng.get_state(JAX))
    save_checkpoint(JAX, tmp_path, new_state(), saved)
    expected = np.random.standard_normal(3)
    global_rng.seed(JAX, 6)
    restored = restore_checkpoint(JAX, tmp_path, new_state())
    global_rng.set_state(JAX, restored.rng)
    np.testing.assert_array_equal(np.random.standard_normal(3), expected)


def test_keys_are_those_of_algoperf_and_one_more(tmp_path):
    save(tmp_path, 1)
    with zipfile.ZipFile(tmp_path / 'checkpoint_1') as archive:
        content = serialization.msgpack_restore(archive.read('checkpoint.msgpack'))
    assert sorted(content) == [
        'eval_results',
        'global_step',
        'model_params',
        'model_state',
        'optimizer_state',
        'preemption_count',
        'runner_state',
        'train_state',
    ]


@pytest.mark.parametrize('kind', KINDS)
def test_damaged_newest_falls_back_with_a_warning(tmp_path, monkeypatch, kind):
    save(tmp_path, 1)
    save(tmp_path, 2)
    damage(tmp_path / 'checkpoint_2', kind, np.float32(2.1).tobytes())
    lines = []
    monkeypatch.setattr(
        logging, 'warning', lambda text, *values: lines.append(text % values)
    )
    state = new_state()
    assert restore_checkpoint(JAX, tmp_path, state) is not None
    assert state.global_step == 1
    assert len(lines) == 1
    assert 'checkpoint_2 is damaged' in lines[0]


def test_all_damaged_is_an_error_that_names_the_files(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
        (tmp_path / f'checkpoint_{step}').write_bytes(b'damaged')
    state = new_state()
    message = r'checkpoint_2 \(.*\), checkpoint_1 \(.*--overwrite .*afresh'
    with pytest.raises(RunnerError, match=message):
        restore_checkpoint(JAX, tmp_path, state)
    assert (state.global_step, state.preemption_count) == (0, 0)


def test_another_optimizer_state_is_an_error(tmp_path):
    save(tmp_path, 1)
    state = new_state()
    state.optimizer_state[0]['more'] = jnp.zeros(1)
    with pytest.raises(RunnerError, match=r'checkpoint_1.*another optimizer_state'):
        restore_checkpoint(JAX, tmp_path, state)
    state = new_state()
    state.model_params['dense']['kernel'] = jnp.zeros((3, 1))
    message = r"model_params\['dense'\]\['kernel'\] is float32\[2, 1\] .*\[3, 1\]"
    with pytest.raises(RunnerError, match=message):
        restore_checkpoint(JAX, tmp_path, state)
    assert state.global_step == 0


def test_optimizer_states_that_cannot_be_saved_are_refused():
    JAX.check_optimizer_state(new_state().optimizer_state)
    with pytest.raises(RunnerError, match=r'must return a pair .* got dict'):
        JAX.check_optimizer_state({'step': 0})
    with pytest.raises(RunnerError, match=r"\[0\]\['a'\] is of type object"):
        JAX.check_optimizer_state(({'a': object()}, update_fn))
    with pytest.raises(RunnerError, match=r"\[0\]\['key'\]"):
        JAX.check_optimizer_state(({'key': jax.random.key(0)}, update_fn))
