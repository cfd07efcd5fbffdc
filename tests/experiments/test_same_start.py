import jax
import numpy as np
import pytest

from experiments import same_start


@pytest.mark.parametrize('workload', ['imagenet_vit_fashion_mnist', 'ogbg_chembl'])
def test_both_frameworks_start_alike(workload):
    pytorch, in_jax = same_start.start_pair(workload, 'reduce', start=1)
    first, second = next(pytorch.queue), next(in_jax.queue)
    np.testing.assert_array_equal(first['targets'], second['targets'])
    expected = same_start.to_flax(pytorch.workload, pytorch.state[1])
    jax.tree.map(np.testing.assert_array_equal, in_jax.state[1], expected)


@pytest.mark.slow
def test_a_short_training_gives_metrics_alike():
    metrics = same_start.train_pair('imagenet_vit_fashion_mnist', 'expand', 0, steps=3)
    assert set(metrics) == {'pytorch', 'jax'}
    # Of ten classes; the labels of the Fisher are sampled by each framework itself.
    assert 0.05 < min(metrics.values()) <= max(metrics.values()) < 0.9
    assert metrics['pytorch'] == pytest.approx(metrics['jax'], abs=0.15)
