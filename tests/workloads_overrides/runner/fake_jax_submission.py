"""Stochastic gradient descent with momentum in JAX, logging its loss."""

import jax
import jax.numpy as jnp
import optax

from tests.workloads_overrides.runner.fake_submission import (  # noqa: F401
    data_selection,
    get_batch_size,
    prepare_for_eval,
)
from workloads_overrides.jax_sharding import batch_sharding, replicated_sharding
from workloads_overrides.spec import ForwardPassMode

# Compiled steps by model and learning rate, since tests make many equal workloads.
STEPS = {}


def init_optimizer_state(workload, model_params, model_state, hyperparameters, rng):
    learning_rate = 0.05 if hyperparameters is None else hyperparameters.learning_rate
    optimizer = optax.sgd(optax.exponential_decay(learning_rate, 1, 0.99), momentum=0.9)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape_tuple), workload.param_shapes)
    opt_state = jax.device_put(optimizer.init(zeros), replicated_sharding())
    key = (workload._model, learning_rate)
    if key not in STEPS:
        STEPS[key] = compiled_step(workload, optimizer)
    return opt_state, STEPS[key]


def compiled_step(workload, optimizer):
    def step(opt_state, params, batch, key):
        def mean_loss(params):
            logits, _ = workload.model_fn(
                params, batch, None, ForwardPassMode.TRAIN, key, True
            )
            losses = workload.loss_fn(batch['targets'], logits)
            return losses['summed'] / losses['n_valid_examples']

        loss, gradient = jax.value_and_grad(mean_loss)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return opt_state, optax.apply_updates(params, updates), loss

    everywhere = replicated_sharding()
    return jax.jit(
        step,
        donate_argnums=(0, 1),
        in_shardings=(everywhere, everywhere, batch_sharding(), everywhere),
        out_shardings=everywhere,
    )


def update_params(
    workload,
    current_param_container,
    current_params_types,
    model_state,
    hyperparameters,
    batch,
    loss_type,
    optimizer_state,
    eval_results,
    global_step,
    rng,
    train_state=None,
):
    opt_state, step = optimizer_state
    opt_state, params, loss = step(opt_state, current_param_container, batch, rng)
    if global_step % 2 == 0:
        workload.metrics_logger.append_scalar_metrics({'loss': loss}, global_step)
    return (opt_state, step), params, model_state
