"""K-FAC as an AlgoPerf submission in PyTorch.

The functions here are those that AlgoPerf calls. A step is: forward and backward
pass (watched on statistics steps), Kronecker factors and their inverses (each on
its interval), preconditioned gradient, first-order rule, averaged parameters.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from .harness import seed_from, training_mode
from .likelihood import Likelihood, likelihood_to_sample
from .pytorch import communication, labels
from .pytorch.capture import Capture
from .pytorch.first_order import FirstOrderOptimizer
from .pytorch.parameter_average import ParameterAverage
from .pytorch.preconditioner import KFACPreconditioner
from .pytorch.wrappers import GivenModel, for_statistics, unwrap
from .schedule import scheduled_learning_rate, with_scheduled_weight_decay
from .settings import Settings, get_batch_size, validate_hyperparameters
from .step_log import LOG_INTERVAL, log_step

__all__ = [
    'data_selection',
    'get_batch_size',
    'init_optimizer_state',
    'prepare_for_eval',
    'update_params',
    'validate_hyperparameters',
]


def init_optimizer_state(
    workload: Any,
    model_params: torch.nn.Module,
    model_state: Any,
    hyperparameters: Any,
    rng: Any,
) -> dict[str, Any]:
    """Returns the optimiser's state; every value has `state_dict`."""
    del model_state, rng
    settings = with_scheduled_weight_decay(
        Settings.from_hyperparameters(hyperparameters), workload.step_hint
    )
    model = unwrap(model_params)
    state: dict[str, Any] = {}
    if settings.approximation != 'none':
        state['preconditioner'] = KFACPreconditioner(model, settings)
    state['optimizer'] = FirstOrderOptimizer(
        model, settings, state.get('preconditioner')
    )
    if settings.averaging_power is not None:
        state['average'] = ParameterAverage(model, settings.averaging_power)
    if communication.is_distributed():
        state['given_model'] = GivenModel(model_params)
    return state


def update_params(
    workload: Any,
    current_param_container: torch.nn.Module,
    current_params_types: Any,
    model_state: Any,
    hyperparameters: Any,
    batch: Mapping[str, Any],
    loss_type: Any,
    optimizer_state: dict[str, Any],
    eval_results: Any,
    global_step: int,
    rng: Any,
    train_state: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], torch.nn.Module, Any]:
    """Takes one training step; see AlgoPerf's documentation for the arguments."""
    del current_params_types, eval_results, train_state, hyperparameters
    optimizer: FirstOrderOptimizer = optimizer_state['optimizer']
    settings = optimizer.settings
    preconditioner: KFACPreconditioner | None = optimizer_state.get('preconditioner')
    model = current_param_container
    if (given := optimizer_state.get('given_model')) is not None:
        model = given.wrapped(model)
    # Not every workload's `model_fn` leaves evaluation mode again.
    model.train()
    average: ParameterAverage | None = optimizer_state.get('average')
    if average is not None:
        average.train()

    # Dropout follows the step's key, as it does in JAX, so that a resumed run drops
    # what the uninterrupted one would have dropped.
    torch.manual_seed(seed_from(rng, 'dropout', communication.rank()))

    capture: Capture | None = None
    if preconditioner is not None and settings.is_statistics_step(global_step):
        capture = preconditioner.capture(batch)
        model = for_statistics(model)

    optimizer.zero_grad()
    optimizer.running_statistics.remember()
    with contextlib.nullcontext() if capture is None else capture:
        with communication.exchanging('buffers of the model'):
            outputs, model_state = workload.model_fn(
                params=model,
                augmented_and_preprocessed_input_batch=batch,
                model_state=model_state,
                mode=training_mode(workload),
                rng=rng,
                update_batch_norm=True,
                **settings.model_arguments(),
            )
        loss_dict = workload.loss_fn(
            label_batch=batch['targets'],
            logits_batch=outputs,
            mask_batch=batch.get('weights'),
            label_smoothing=settings.label_smoothing,
        )
        loss_terms = communication.all_reduce_sum(
            _as_scalar(loss_dict['n_valid_examples'], loss_dict['summed']),
            'number of loss terms',
        )
        # Data-parallel training averages gradients over processes; the loss is a
        # sum over them, divided by the terms of all.
        gradient_scale: torch.Tensor | float = loss_terms / communication.world_size()
        loss = loss_dict['summed'] / gradient_scale
        if capture is not None:
            likelihood = likelihood_to_sample(settings, loss_type.name, outputs, batch)
            if likelihood is None:
                capture.watch_backward()
            else:
                capture.backward_to_layers(
                    outputs,
                    _sampled_gradient(likelihood, workload, outputs, batch, rng),
                )
                gradient_scale = 1.0
        with communication.exchanging('gradients'):
            loss.backward()

    if capture is not None:
        assert preconditioner is not None
        preconditioner.update_factors(capture, loss_terms, gradient_scale)
    if preconditioner is not None and settings.is_inverse_step(global_step):
        preconditioner.update_inverses()

    learning_rate = scheduled_learning_rate(settings, workload.step_hint, global_step)
    gradient_norm = optimizer.step(learning_rate)
    if average is not None:
        average.update(global_step)

    if global_step % LOG_INTERVAL == 0:
        _log(workload, global_step, loss, gradient_norm, optimizer_state)
    return optimizer_state, current_param_container, model_state


def _as_scalar(value: torch.Tensor | float, like: torch.Tensor) -> torch.Tensor:
    # Counts of loss terms are beyond what 16 bits hold.
    dtype = torch.promote_types(like.dtype, torch.float32)
    if isinstance(value, torch.Tensor):
        return value.to(like.device, dtype)
    # Filled on the device, so that no number has to travel there.
    return torch.full((), value, dtype=dtype, device=like.device)


def _sampled_gradient(
    likelihood: Likelihood,
    workload: Any,
    outputs: torch.Tensor,
    batch: Mapping[str, Any],
    rng: Any,
) -> torch.Tensor:
    scale = (
        labels.squared_error_scale(workload, outputs)
        if likelihood is Likelihood.GAUSSIAN
        else 1.0
    )
    # A generator of its own: sampling labels must not shift the dropout of others.
    seed = seed_from(rng, 'labels', communication.rank())
    generator = torch.Generator(outputs.device).manual_seed(seed)
    return labels.sampled_output_gradient(likelihood, outputs, batch, generator, scale)


def _log(
    workload: Any,
    global_step: int,
    loss: torch.Tensor,
    gradient_norm: torch.Tensor,
    optimizer_state: Mapping[str, Any],
) -> None:
    scalars = {'loss': loss.item(), 'grad_norm': gradient_norm.item()}
    preconditioner = optimizer_state.get('preconditioner')
    counters = {'skipped_steps': optimizer_state['optimizer'].skipped_steps}
    if preconditioner is not None:
        counters.update(preconditioner.counters)
    log_step(workload, global_step, scalars, counters)


def prepare_for_eval(
    workload: Any,
    current_param_container: torch.nn.Module,
    current_params_types: Any,
    model_state: Any,
    hyperparameters: Any,
    loss_type: Any,
    optimizer_state: dict[str, Any],
    eval_results: Any,
    global_step: int,
    rng: Any,
) -> tuple[dict[str, Any], torch.nn.Module, Any]:
    """Puts the averaged parameters into the model, where the trial has them."""
    del workload, current_params_types, hyperparameters, loss_type, eval_results
    del global_step, rng
    average: ParameterAverage | None = optimizer_state.get('average')
    if average is not None:
        average.evaluate()
    return optimizer_state, current_param_container, model_state


def data_selection(
    workload: Any,
    input_queue: Iterator[Mapping[str, Any]],
    optimizer_state: dict[str, Any],
    current_param_container: torch.nn.Module,
    model_state: Any,
    hyperparameters: Any,
    global_step: int,
    rng: Any,
) -> Mapping[str, Any]:
    """Returns the next batch of the shuffled, endless training queue."""
    del workload, optimizer_state, current_param_container, model_state
    del hyperparameters, global_step, rng
    # The queue of some workloads is read in one process and sent to the others.
    with communication.exchanging('the next batch'):
        return next(input_queue)
