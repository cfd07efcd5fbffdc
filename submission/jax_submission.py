"""K-FAC as an AlgoPerf submission in JAX, for Flax linen models.

The functions here are those that AlgoPerf calls. A step is: forward and backward
pass (watched on statistics steps), Kronecker factors and their inverses (each on
its interval), preconditioned gradient, first-order rule. It is compiled twice: once
as it is most of the time, and once for statistics steps.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import logging

from .harness import training_mode
from .jax import labels, sharding
from .jax.capture import find_applications
from .jax.first_order import FirstOrderOptimizer, FirstOrderState
from .jax.naming import flatten, unflatten
from .jax.preconditioner import KFACPreconditioner, KFACState
from .likelihood import Likelihood, likelihood_to_sample
from .schedule import scheduled_learning_rate
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

# Sampling labels must not shift the dropout of others, which follows the step's key.
_LABEL_STREAM = 1


class OptimizerState(NamedTuple):
    """All that is remembered between steps, and saved in checkpoints.

    Attributes:
      kfac: State of the preconditioner; None without one.
      first_order: State of the first-order rule.
    """

    kfac: KFACState | None
    first_order: FirstOrderState


@dataclasses.dataclass(frozen=True, eq=False)
class Steps:
    """The compiled functions of a trial.

    Attributes:
      settings: The trial's settings.
      preconditioner: The preconditioner; None without one.
      plain: A step between two updates of the statistics.
      statistics: A step with new statistics, and with new inverses if asked.
      inverses: New inverses between two updates of the statistics.
    """

    settings: Settings
    preconditioner: KFACPreconditioner | None
    plain: Callable[..., Any]
    statistics: Callable[..., Any]
    inverses: Callable[..., Any]


def init_optimizer_state(
    workload: Any,
    model_params: Any,
    model_state: Any,
    hyperparameters: Any,
    rng: Any,
) -> tuple[OptimizerState, Steps]:
    """Returns the optimiser's state, and the compiled functions that update it."""
    del model_state
    settings = Settings.from_hyperparameters(hyperparameters)
    preconditioner = None
    if settings.approximation != 'none':
        shapes = {name: p.shape for name, p in flatten(model_params).items()}
        applications = find_applications(lambda: workload.init_model_fn(rng))
        preconditioner = KFACPreconditioner(
            shapes, applications, settings, on_all_devices=jax.device_count() > 1
        )
    optimizer = FirstOrderOptimizer(settings, preconditioner)

    def initial_state(params: Any) -> OptimizerState:
        return OptimizerState(
            None if preconditioner is None else preconditioner.init(params),
            optimizer.init(params),
        )

    # As one program: by themselves its many small arrays take seconds to compile.
    state = jax.jit(initial_state, out_shardings=sharding.replicated())(model_params)
    return state, _compiled(workload, settings, preconditioner, optimizer)


def _compiled(
    workload: Any,
    settings: Settings,
    preconditioner: KFACPreconditioner | None,
    optimizer: FirstOrderOptimizer,
) -> Steps:
    compiled = functools.partial(jax.jit, out_shardings=sharding.replicated())
    step = functools.partial(_step, workload, settings, preconditioner, optimizer)
    no_inverses = functools.partial(step, renew_inverses=None)

    def inverses(state: OptimizerState) -> OptimizerState:
        assert preconditioner is not None
        assert state.kfac is not None
        return state._replace(kfac=preconditioner.update_inverses(state.kfac))

    return Steps(
        settings,
        preconditioner,
        plain=compiled(no_inverses, donate_argnums=(0, 1, 2)),
        statistics=compiled(step, donate_argnums=(0, 1, 2)),
        inverses=compiled(inverses, donate_argnums=0),
    )


def _step(
    workload: Any,
    settings: Settings,
    preconditioner: KFACPreconditioner | None,
    optimizer: FirstOrderOptimizer,
    state: OptimizerState,
    params: Any,
    model_state: Any,
    batch: Mapping[str, Any],
    rng: jax.Array,
    learning_rate: jax.Array,
    renew_inverses: jax.Array | None,
) -> tuple[OptimizerState, Any, Any, dict[str, jax.Array]]:
    """Takes one step.

    Args:
      workload: The workload.
      settings: The trial's settings.
      preconditioner: None without one.
      optimizer: The first-order rule.
      state: The optimiser's state.
      params: The parameters.
      model_state: The model's state, such as batch statistics.
      batch: The batch.
      rng: Key of this step.
      learning_rate: Learning rate of this step.
      renew_inverses: Whether to invert the factors; None in a step without new
        statistics.

    Returns:
      The optimiser's state, the parameters, the model's state, and scalars to log.
    """
    capture = None
    if preconditioner is not None and renew_inverses is not None:
        assert state.kfac is not None
        updates = state.kfac.counters['factor_updates']
        capture = preconditioner.capture(batch, updates)

    forward, mean_loss = model_and_loss(workload, settings, model_state, batch, rng)
    kfac_state = state.kfac
    if capture is None:
        outputs, backward, stepped = jax.vjp(forward, params, has_aux=True)
    else:
        outputs, backward, stepped = capture.vjp(forward, params)
    loss, loss_backward, loss_terms = jax.vjp(mean_loss, outputs, has_aux=True)
    (output_gradient,) = loss_backward(jnp.ones_like(loss))
    gradients, *captured = backward(output_gradient)

    if capture is not None:
        assert preconditioner is not None
        assert kfac_state is not None
        (sums,), gradient_scale = captured, loss_terms
        likelihood = likelihood_to_sample(
            settings, workload.loss_type.name, outputs, batch
        )
        if likelihood is not None:
            label_rng = jax.random.fold_in(rng, _LABEL_STREAM)
            _, sums = backward(
                sampled_gradient(likelihood, workload, outputs, batch, label_rng)
            )
            gradient_scale = jnp.ones_like(loss_terms)
        preconditioner.log_unreached(capture, sums)
        assert renew_inverses is not None
        kfac_state = preconditioner.update(
            kfac_state, sums, loss_terms, gradient_scale, renew_inverses
        )

    params, first_order, norm = optimizer.step(
        params, gradients, state.first_order, kfac_state, learning_rate
    )
    # A moving average of batch statistics that took in NaN would stay so for good.
    model_state = _kept_unless(jnp.isfinite(norm), stepped, model_state)
    state = OptimizerState(kfac_state, first_order)
    return state, params, model_state, {'loss': loss, 'grad_norm': norm}


def _kept_unless(counts: jax.Array, stepped: Any, before: Any) -> Any:
    """Returns the model's state after a step, or before it where that was skipped."""
    old = flatten(before)
    kept = {
        name: jnp.where(counts, value, old[name]) if name in old else value
        for name, value in flatten(stepped).items()
    }
    return unflatten(kept, stepped)


def model_and_loss(
    workload: Any,
    settings: Settings,
    model_state: Any,
    batch: Mapping[str, Any],
    rng: jax.Array,
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns what a step differentiates.

    Returns:
      The forward pass, parameters to outputs and the model's state; and the mean loss,
      outputs to it and the number of its terms.
    """

    def forward(params: Any) -> tuple[Any, Any]:
        return workload.model_fn(
            params=params,
            augmented_and_preprocessed_input_batch=batch,
            model_state=model_state,
            mode=training_mode(workload),
            rng=rng,
            update_batch_norm=True,
            **settings.model_arguments(),
        )

    def mean_loss(outputs: Any) -> tuple[jax.Array, jax.Array]:
        loss_dict = workload.loss_fn(
            label_batch=batch['targets'],
            logits_batch=outputs,
            mask_batch=batch.get('weights'),
            label_smoothing=settings.label_smoothing,
        )
        loss_terms = jnp.asarray(
            loss_dict['n_valid_examples'], loss_dict['summed'].dtype
        )
        return loss_dict['summed'] / loss_terms, loss_terms

    return forward, mean_loss


def sampled_gradient(
    likelihood: Likelihood,
    workload: Any,
    outputs: jax.Array,
    batch: Mapping[str, Any],
    rng: jax.Array,
) -> jax.Array:
    """Returns the gradient with respect to outputs of the loss of sampled labels."""
    scale = (
        labels.squared_error_scale(workload, outputs)
        if likelihood is Likelihood.GAUSSIAN
        else 1.0
    )
    return labels.sampled_output_gradient(likelihood, outputs, batch, rng, scale)


def update_params(
    workload: Any,
    current_param_container: Any,
    current_params_types: Any,
    model_state: Any,
    hyperparameters: Any,
    batch: Mapping[str, Any],
    loss_type: Any,
    optimizer_state: tuple[OptimizerState, Steps],
    eval_results: Any,
    global_step: int,
    rng: Any,
    train_state: Mapping[str, Any] | None = None,
) -> tuple[tuple[OptimizerState, Steps], Any, Any]:
    """Takes one training step; see AlgoPerf's documentation for the arguments."""
    del current_params_types, eval_results, train_state, hyperparameters, loss_type
    state, steps = optimizer_state
    settings, preconditioner = steps.settings, steps.preconditioner
    params = current_param_container
    state, params, model_state = sharding.as_trained(state, params, model_state)
    learning_rate = scheduled_learning_rate(settings, workload.step_hint, global_step)
    arguments = (params, model_state, sharding.shard_batch(batch), rng, learning_rate)
    renew_inverses = preconditioner is not None and settings.is_inverse_step(
        global_step
    )
    if preconditioner is not None and settings.is_statistics_step(global_step):
        updated = steps.statistics(state, *arguments, renew_inverses=renew_inverses)
    else:
        if renew_inverses:
            state = steps.inverses(state)
        updated = steps.plain(state, *arguments)
    state, params, model_state, scalars = updated
    if global_step % LOG_INTERVAL == 0:
        _log(workload, global_step, scalars, state, preconditioner)
    return (state, steps), params, model_state


def _log(
    workload: Any,
    global_step: int,
    scalars: Mapping[str, jax.Array],
    state: OptimizerState,
    preconditioner: KFACPreconditioner | None,
) -> None:
    """Logs a step; waits for the device, and so is called seldom."""
    counters, weights = {'skipped_steps': state.first_order.skipped_steps}, None
    if state.kfac is not None:
        counters.update(state.kfac.counters)
        weights = state.kfac.factors.averaged_weight
    values, counts, weights = jax.device_get((dict(scalars), counters, weights))
    if preconditioner is not None:
        preconditioner.log_vanished(int(counts['factor_updates']), weights)
    failures = [n for n in ('skipped_statistics', 'failed_inverses') if counts.get(n)]
    log_step(
        workload,
        global_step,
        {name: float(value) for name, value in values.items()},
        {name: int(count) for name, count in counts.items()},
        logging.WARNING if failures else logging.INFO,
    )


def prepare_for_eval(
    workload: Any,
    current_param_container: Any,
    current_params_types: Any,
    model_state: Any,
    hyperparameters: Any,
    loss_type: Any,
    optimizer_state: tuple[OptimizerState, Steps],
    eval_results: Any,
    global_step: int,
    rng: Any,
) -> tuple[tuple[OptimizerState, Steps], Any, Any]:
    """Returns everything as it is: the parameters are ready for evaluation."""
    del workload, current_params_types, hyperparameters, loss_type, eval_results
    del global_step, rng
    return optimizer_state, current_param_container, model_state


def data_selection(
    workload: Any,
    input_queue: Iterator[Mapping[str, Any]],
    optimizer_state: tuple[OptimizerState, Steps],
    current_param_container: Any,
    model_state: Any,
    hyperparameters: Any,
    global_step: int,
    rng: Any,
) -> Mapping[str, Any]:
    """Returns the next batch of the shuffled, endless training queue."""
    del workload, optimizer_state, current_param_container, model_state
    del hyperparameters, global_step, rng
    return next(input_queue)
