"""Evaluates and differentiates the offline workloads on some host devices.

Usage: python -m tests.workloads_overrides.several_devices OUTPUT.json
"""

import json
import pathlib
import sys

import jax
import numpy as np

from workloads_overrides import registry
from workloads_overrides.imagenet_vit_fashion_mnist.workload import ModelSize
from workloads_overrides.jax_sharding import batch_sharding, replicated_sharding
from workloads_overrides.spec import ForwardPassMode

BATCH_SIZE = 32
# Small models, which compile sooner.
SIZES = {
    'ogbg_chembl': {
        'hidden_dims': (16,),
        'latent_dim': 16,
        'num_message_passing_steps': 2,
    },
    'imagenet_vit_fashion_mnist': {
        'model_size': ModelSize(
            width=16, depth=1, mlp_dim=24, num_heads=2, patch_size=7
        )
    },
}


def summary_of(name):
    workload_class = type(registry.load_workload(name, 'jax'))
    assert all(hasattr(workload_class, size) for size in SIZES[name])
    workload = type('Small', (workload_class,), SIZES[name])()
    key = jax.random.PRNGKey(0)
    params, _ = workload.init_model_fn(key)
    # No zeros in the head, or there would be no gradient below it.
    params = jax.tree.map(lambda x: x + 0.1, params)
    batch = next(workload._build_input_queue(key, 'train', None, BATCH_SIZE))

    def mean_loss(params, batch):
        logits, _ = workload.model_fn(
            params, batch, None, ForwardPassMode.TRAIN, key, True, dropout_rate=0.0
        )
        loss = workload.loss_fn(batch['targets'], logits, batch.get('weights'))
        return loss['summed'] / loss['n_valid_examples']

    step = jax.jit(
        jax.value_and_grad(mean_loss),
        in_shardings=(replicated_sharding(), batch_sharding()),
        out_shardings=replicated_sharding(),
    )
    loss, gradient = step(params, batch)
    queue = workload._build_input_queue(key, 'validation', None, BATCH_SIZE)
    evaluation = jax.tree.leaves(workload._jitted_evaluate_batch(params, next(queue)))
    return {
        'loss': loss.item(),
        'gradient': [np.linalg.norm(x).item() for x in jax.tree.leaves(gradient)],
        'evaluation': np.asarray(evaluation[-1]).tolist(),
    }


def summaries():
    content = {name: summary_of(name) for name in SIZES}
    return {**content, 'devices': jax.device_count()}


if __name__ == '__main__':
    pathlib.Path(sys.argv[1]).write_text(json.dumps(summaries()))
