"""Calls the submission's functions as a runner does."""

import jax

from submission import jax_submission
from tests.submission.training import hyperparameters

__all__ = ['hyperparameters', 'init', 'prepare_for_eval', 'train']


def init(workload, point):
    """Returns the optimizer state, the parameters and the model's state."""
    params, model_state = workload.init_model_fn(jax.random.PRNGKey(0))
    state = jax_submission.init_optimizer_state(
        workload, params, model_state, point, jax.random.PRNGKey(1)
    )
    return state, params, model_state


def train(workload, point, state, params, model_state, steps, batches=None):
    """Takes the given steps; each has its own batch and key."""
    for step in steps:
        batch = workload.batch(step) if batches is None else batches[step]
        state, params, model_state = jax_submission.update_params(
            workload,
            params,
            None,
            model_state,
            point,
            batch,
            workload.loss_type,
            state,
            [],
            step,
            jax.random.fold_in(jax.random.PRNGKey(17), step),
        )
    return state, params, model_state


def prepare_for_eval(state, params, model_state):
    """Returns the same with what is to be evaluated, which a runner then trains on."""
    found = jax_submission.prepare_for_eval(
        None, params, None, model_state, None, None, state, [], 0, None
    )
    assert found[0] is state
    return found
