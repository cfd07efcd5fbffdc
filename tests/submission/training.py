"""Calls the submission's functions as a runner does."""

import collections

from submission import pytorch_submission

REQUIRED = {
    'learning_rate': 1e-2,
    'one_minus_beta1': 0.1,
    'beta2': 0.95,
    'weight_decay': 0.01,
    'warmup_factor': 0.0,
}


def hyperparameters(**changes):
    """A named tuple, as AlgoPerf makes of a point of the search space."""
    point = {**REQUIRED, 'step_hint_factor': 1.0, **changes}
    return collections.namedtuple('Hyperparameters', point)(**point)


def init(workload, point, model=None):
    """Returns the optimizer state and the model."""
    if model is None:
        model, _ = workload.init_model_fn((0, 1))
    state = pytorch_submission.init_optimizer_state(
        workload, model, None, point, (0, 1)
    )
    return state, model


def train(workload, point, state, model, steps, batches=None):
    """Takes the given steps; each has its own batch and key."""
    for step in steps:
        batch = workload.batch(step) if batches is None else batches[step]
        state, model, _ = pytorch_submission.update_params(
            workload,
            model,
            None,
            None,
            point,
            batch,
            workload.loss_type,
            state,
            [],
            step,
            (17, step),
        )
    return state, model


def prepare_for_eval(state, model):
    """Puts what is to be evaluated into the model."""
    found = pytorch_submission.prepare_for_eval(
        None, model, None, 'state', None, None, state, [], 0, (0, 1)
    )
    assert found == (state, model, 'state')
