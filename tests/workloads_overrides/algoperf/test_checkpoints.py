"""What AlgoPerf saves of the submission comes back, and training goes on from it."""

import numpy as np
import pytest
import torch

from tests.workloads_overrides.algoperf.conftest import HYPERPARAMETERS, REASON

pytest.importorskip('algoperf', reason=REASON)
pytestmark = pytest.mark.algoperf

from algoperf import checkpoint_utils  # noqa: E402

from tests.workloads_overrides.algoperf.training import (  # noqa: E402
    Run,
    submission_module,
)

EVAL_RESULTS = [(1, {'validation/loss': 0.5})]


def start(framework):
    point = {**HYPERPARAMETERS, 'averaging_power': 4.0}
    return Run('ogbg_small', framework, submission_module(framework), point)


def save(run, folder):
    checkpoint_utils.save_checkpoint(
        framework=run.framework,
        optimizer_state=run.optimizer_state,
        model_params=run.params,
        model_state=run.model_state,
        train_state={'accumulated_submission_time': 1.5},
        eval_results=EVAL_RESULTS,
        global_step=run.step,
        preemption_count=0,
        checkpoint_dir=str(folder),
        save_intermediate_checkpoints=True,
    )


def restore(run, folder):
    (
        run.optimizer_state,
        run.params,
        run.model_state,
        train_state,
        eval_results,
        run.step,
        preemption_count,
    ) = checkpoint_utils.maybe_restore_checkpoint(
        run.framework,
        run.optimizer_state,
        run.params,
        run.model_state,
        {'accumulated_submission_time': 0.0},
        [],
        0,
        0,
        str(folder),
    )
    assert train_state == {'accumulated_submission_time': 1.5}
    assert len(eval_results) == 1
    assert preemption_count == 1


def flattened(tree, prefix=''):
    """Returns path to value for nested dictionaries and sequences."""
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, list | tuple):
        items = enumerate(tree)
    else:
        # A copy: training goes on in place.
        return {prefix: np.array(tree.numpy() if torch.is_tensor(tree) else tree)}
    return {
        path: value
        for key, branch in items
        for path, value in flattened(branch, f'{prefix}/{key}').items()
    }


def pytorch_state(run):
    return flattened(
        {
            'params': run.params.state_dict(),
            **{name: part.state_dict() for name, part in run.optimizer_state.items()},
        }
    )


def jax_state(run):
    import jax

    leaves = jax.tree_util.tree_leaves_with_path((run.params, run.optimizer_state[0]))
    return {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in leaves}


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert found[name].shape == value.shape, name
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize('evaluated', [False, True])
def test_pytorch_restores_every_bit_and_goes_on_as_before(
    data_dir, tmp_path, evaluated
):
    uninterrupted, resumed = start('pytorch'), start('pytorch')
    batches = uninterrupted.batches(data_dir, batch_size=16, count=4)
    # An odd number, so that the next step uses factors and inverses as they are.
    uninterrupted.train(batches, 5)
    if evaluated:
        uninterrupted.prepare_for_eval()
    save(uninterrupted, tmp_path)
    restore(resumed, tmp_path)
    saved = pytorch_state(uninterrupted)
    assert any('preconditioner' in name for name in saved)
    assert_same_bits(pytorch_state(resumed), saved)

    uninterrupted.train(batches, 6)
    resumed.train(batches, 6)
    assert_same_bits(pytorch_state(resumed), pytorch_state(uninterrupted))


@pytest.mark.parametrize('evaluated', [False, True])
def test_jax_restores_every_bit_and_goes_on_as_before(
    data_dir, tmp_path, flax_checkpoints, evaluated
):
    uninterrupted, resumed = start('jax'), start('jax')
    batches = uninterrupted.batches(data_dir, batch_size=16, count=4)
    uninterrupted.train(batches, 5)
    if evaluated:
        uninterrupted.prepare_for_eval()
    save(uninterrupted, tmp_path)
    restore(resumed, tmp_path)
    # AlgoPerf gives each array of the checkpoint an axis for the devices in front.
    with_axis = {
        name: value[np.newaxis] for name, value in jax_state(uninterrupted).items()
    }
    assert_same_bits(jax_state(resumed), with_axis)

    uninterrupted.train(batches, 6)
    resumed.train(batches, 6)
    assert_same_bits(jax_state(resumed), jax_state(uninterrupted))


@pytest.fixture
def flax_checkpoints():
    """Flax's own format, which AlgoPerf can restore; the harness sets it too."""
    import flax

    flax.config.update('flax_use_orbax_checkpointing', False)
    yield
    flax.config.update('flax_use_orbax_checkpointing', True)
