"""Trains small models in JAX, in double precision, and saves the parameters.

Called as `python -m tests.gpu.jax_steps FILE`. On what is for the caller to set before
JAX starts.
"""

import sys

import jax
import numpy as np

from submission import jax_submission
from submission.jax.naming import flatten
from tests.workloads_overrides.double_precision import double_precision
from tests.workloads_overrides.small_models import BATCH_SIZE, SmallGNN, SmallViT
from workloads_overrides.imagenet_vit_fashion_mnist import jax_workload as vit
from workloads_overrides.ogbg_chembl import jax_workload as gnn

from .cases import CASES, HYPERPARAMETERS, STEPS


class GNN(SmallGNN, gnn.OgbgChemblWorkload):
    pass


class ViT(SmallViT, vit.ImagenetVitFashionMnistWorkload):
    pass


MODELS = {'gnn': GNN, 'vit': ViT}


def in_double_precision(values):
    return jax.tree.map(
        lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, values
    )


def drawn_like(params):
    """Returns parameters that are the same bit for bit on every device.

    What a workload draws is in single precision, and its last bits are the device's.
    """
    noise = np.random.default_rng(0)

    def draw(values):
        constant = np.ptp(values) == 0.0
        # A head of zeros would hide all curvature below it.
        scale = 0.1 if constant else values.shape[0] ** -0.5
        centre = values.flat[0] if constant else 0.0
        return centre + scale * noise.normal(size=values.shape)

    return jax.tree.map(lambda x: draw(np.asarray(x, np.float64)), params)


def trained(model, approximation, fisher_type):
    """Returns the parameters by name."""
    workload = MODELS[model]()
    point = {
        **HYPERPARAMETERS,
        'approximation': approximation,
        'fisher_type': fisher_type,
    }
    params, _ = workload.init_model_fn(jax.random.PRNGKey(0))
    params = drawn_like(params)
    state = jax_submission.init_optimizer_state(
        workload, params, None, point, jax.random.PRNGKey(0)
    )
    queue = workload._build_input_queue([7, 8], 'train', None, BATCH_SIZE)
    for step in range(STEPS):
        state, params, _ = jax_submission.update_params(
            workload,
            params,
            None,
            None,
            point,
            in_double_precision(dict(next(queue))),
            workload.loss_type,
            state,
            [],
            step,
            jax.random.PRNGKey(1),
        )
    return flatten(params)


if __name__ == '__main__':
    with double_precision():
        results = {
            f'{", ".join(case)}, {name}': np.asarray(value)
            for case in CASES
            for name, value in trained(*case).items()
        }
    np.savez(sys.argv[1], backend=np.asarray(jax.default_backend()), **results)
