"""kfac-jax with its adapter: that it trains, and has our factors."""

import importlib

import jax
import numpy as np
import pytest

from experiments.peers.ours import Ours
from experiments.peers.task import Task
from tests.submission.jax.tiny_workload import TinyGraphWorkload

from .methods import tiny_task


class GraphsWithoutPadding(TinyGraphWorkload):
    """Rows of layers are nodes and edges, and all count."""

    # Passed on to the submission, which does not read it.
    model_params_types = {}  # noqa: RUF012

    def batch(self, *args, **kwargs):
        batch = super().batch(*args, **kwargs)
        return {**batch, 'weights': np.ones(len(batch['targets']), np.float32)}


@pytest.fixture
def peer():
    pytest.importorskip('kfac_jax', reason='The library is in the extra "peers".')
    return importlib.import_module('experiments.peers.kfac_jax_peer')


@pytest.fixture
def adapter():
    pytest.importorskip('kfac_jax', reason='The library is in the extra "peers".')
    return importlib.import_module('experiments.peers.kfac_jax_adapter')


@pytest.mark.parametrize('is_adaptive', [False, True])
def test_it_trains(peer, is_adaptive):
    method = peer.KFACJax(tiny_task('jax'), is_adaptive)
    before, after = method.train(3)
    assert after < before
    assert method.state_bytes() > 0
    assert method.compilation > 0


def test_rows_that_are_not_examples_give_our_factors(adapter):
    task = Task(GraphsWithoutPadding(), 'jax', 8)
    params, batch = task.params(), jax.device_put(task.probe)
    adapter.adapt_to_jax()
    estimator = adapter.kfac_jax.BlockDiagonalCurvature(
        func=adapter.registered_loss(task),
        default_estimation_mode='fisher_empirical',
        layer_tag_to_block_ctor=adapter.block_constructors(8),
    )
    state = estimator.init(task.key, (params, batch), None, -1)
    state = jax.jit(
        lambda state: estimator.update_curvature_matrix_estimate(
            state,
            ema_old=0.0,
            ema_new=1.0,
            identity_weight=0.0,
            batch_size=8,
            rng=task.key,
            func_args=(params, batch),
        )
    )(state)
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    names = ['/'.join(key.key for key in path) for path, _ in leaves]
    method = Ours(task, 'expand, empirical')
    method.take()
    factors = method._training.state[0][0].kfac.factors
    compared = 0
    blocks = estimator.indices_to_block_map
    for indices, block in zip(blocks, state.blocks_states, strict=True):
        module = names[indices[0]].rpartition('/')[0]
        # Diagonal blocks have none.
        for side, factor in zip('ab', getattr(block, 'factors', ()), strict=False):
            theirs = np.ravel(np.asarray(factor.value, np.float64))
            name = f'{module}/{side}'
            (average,) = factors.stacks.pick(factors.moving_average, [name])
            ours = np.ravel(np.asarray(average, np.float64))
            # Their scale differs, by rows for examples.
            cosine = theirs @ ours / np.linalg.norm(theirs) / np.linalg.norm(ours)
            assert cosine > 1 - 1e-5
            compared += 1
    assert compared == 6
