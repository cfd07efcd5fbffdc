"""Stochastic gradient descent with momentum, logging its loss."""

import torch

from workloads_overrides.spec import ForwardPassMode


def get_batch_size(workload_name):
    return {'fake': 8}.get(workload_name, 16)


def validate_hyperparameters(hyperparameters):
    if not 0 < hyperparameters.learning_rate < 100:
        raise ValueError(f"'learning_rate' is {hyperparameters.learning_rate}")


def init_optimizer_state(workload, model_params, model_state, hyperparameters, rng):
    learning_rate = 0.05 if hyperparameters is None else hyperparameters.learning_rate
    optimizer = torch.optim.SGD(
        model_params.parameters(), lr=learning_rate, momentum=0.9
    )
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.99)
    return {'optimizer': optimizer, 'scheduler': scheduler}


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
    optimizer_state['optimizer'].zero_grad()
    logits, model_state = workload.model_fn(
        current_param_container,
        batch,
        model_state,
        ForwardPassMode.TRAIN,
        rng,
        update_batch_norm=True,
    )
    losses = workload.loss_fn(batch['targets'], logits)
    loss = losses['summed'] / losses['n_valid_examples']
    loss.backward()
    optimizer_state['optimizer'].step()
    optimizer_state['scheduler'].step()
    if global_step % 2 == 0:
        workload.metrics_logger.append_scalar_metrics(
            {'loss': loss.detach()}, global_step
        )
    return optimizer_state, current_param_container, model_state


def prepare_for_eval(
    workload,
    current_param_container,
    current_params_types,
    model_state,
    hyperparameters,
    loss_type,
    optimizer_state,
    eval_results,
    global_step,
    rng,
):
    return optimizer_state, current_param_container, model_state


def data_selection(
    workload,
    input_queue,
    optimizer_state,
    current_param_container,
    model_state,
    hyperparameters,
    global_step,
    rng,
):
    # A second batch now and then, so that steps and batches differ.
    if global_step % 3 == 0:
        next(input_queue)
    return next(input_queue)
