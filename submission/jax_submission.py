"""K-FAC as an AlgoPerf submission in JAX, for Flax linen models.

The functions here are those that AlgoPerf calls. A step is: forward and backward
pass (on statistics steps watched, for new Kronecker factors), inverses on their
interval, preconditioned gradient, first-order rule, averaged parameters. A step without
new statistics is one program, which the compiler makes faster than its parts; one with
them is several, so that inverses are compiled once, whatever step they come in.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import logging

from .averaging import newest_share
from .harness import training_mode
from .jax import labels, parameter_average, sharding
from .jax.approximations import FactorSums
from .jax.capture import Capture, find_applications
from .jax.first_order import FirstOrderOptimizer, FirstOrderState
from .jax.naming import flatten, unflatten
from .jax.parameter_average import Model, ParameterAverage
from .jax.preconditioner import KFACPreconditioner, KFACState
from .likelihood import Likelihood, likelihood_to_sample
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

# Sampling labels must not shift the dropout of others, which follows the step's key.
_LABEL_STREAM = 1


class Passes(NamedTuple):
    """What comes of the forward and backward pass of a step.

    Attributes:
      gradients: Gradients of the parameters.
      model_state: The model's state after the forward pass.
      loss: The mean loss.
    """

    gradients: Any
    model_state: Any
    loss: jax.Array


class Watched(NamedTuple):
    """What the passes of a statistics step give for new Kronecker factors.

    Attributes:
      sums: Layer name to the captured sums.
      loss_terms: Number of terms that the loss averages over.
      gradient_scale: What makes the watched gradients those of a summed loss.
    """

    sums: Mapping[str, FactorSums]
    loss_terms: jax.Array
    gradient_scale: jax.Array


class Rates(NamedTuple):
    """What depends on the number of a step.

    Attributes:
      learning_rate: The learning rate.
      newest_share: Share of the step's parameters in the averaged ones.
    """

    learning_rate: jax.Array | float
    newest_share: jax.Array | float


class Updated(NamedTuple):
    """What a step changes.

    Attributes:
      first_order: State of the first-order rule.
      trained: The parameters and the model's state.
      average: The averaged parameters; None without them.
      scalars: What may be logged.
    """

    first_order: FirstOrderState
    trained: Model
    average: Model | None
    scalars: dict[str, jax.Array]


class OptimizerState(NamedTuple):
    """All that is remembered between steps, and saved in checkpoints.

    Attributes:
      kfac: State of the preconditioner; None without one.
      average: Averaged parameters; None without them.
      first_order: State of the first-order rule.
    """

    kfac: KFACState | None
    average: ParameterAverage | None
    first_order: FirstOrderState


@dataclasses.dataclass(frozen=True, eq=False)
class Steps:
    """The compiled functions of a trial.

    Attributes:
      settings: The trial's settings.
      preconditioner: The preconditioner; None without one.
      plain: A step without new statistics.
      statistics: Forward and backward pass, watched, and new Kronecker factors.
      inverses: New inverses.
      apply: What follows: preconditions gradients and updates the parameters.
    """

    settings: Settings
    preconditioner: KFACPreconditioner | None
    plain: Callable[..., Any]
    statistics: Callable[..., Any]
    inverses: Callable[..., Any]
    apply: Callable[..., Any]


def init_optimizer_state(
    workload: Any,
    model_params: Any,
    model_state: Any,
    hyperparameters: Any,
    rng: Any,
) -> tuple[OptimizerState, Steps]:
    """Returns the optimiser's state, and the compiled functions that update it."""
    settings = with_scheduled_weight_decay(
        Settings.from_hyperparameters(hyperparameters), workload.step_hint
    )
    preconditioner = None
    if settings.approximation != 'none':
        shapes = {name: p.shape for name, p in flatten(model_params).items()}
        applications = find_applications(lambda: workload.init_model_fn(rng))
        preconditioner = KFACPreconditioner(
            shapes, applications, settings, on_all_devices=jax.device_count() > 1
        )
    optimizer = FirstOrderOptimizer(settings, preconditioner)

    def initial_state(model: Model) -> OptimizerState:
        averages = settings.averaging_power is not None
        return OptimizerState(
            None if preconditioner is None else preconditioner.init(model.params),
            parameter_average.init(model) if averages else None,
            optimizer.init(model.params),
        )

    # As one program: by themselves its many small arrays take seconds to compile.
    initial = jax.jit(initial_state, out_shardings=sharding.replicated())
    state = initial(Model(model_params, model_state))
    return state, _compiled(workload, settings, preconditioner, optimizer)


def _compiled(
    workload: Any,
    settings: Settings,
    preconditioner: KFACPreconditioner | None,
    optimizer: FirstOrderOptimizer,
) -> Steps:
    compiled = functools.partial(
        jax.jit,
        out_shardings=sharding.replicated(),
        compiler_options=compiler_options(jax.default_backend()),
    )

    # Traced once for both programs that it is a part of.
    apply = jax.jit(functools.partial(_apply, optimizer), inline=True)

    def inverses(kfac: KFACState) -> KFACState:
        assert preconditioner is not None
        return preconditioner.update_inverses(kfac)

    def plain(
        first_order: FirstOrderState,
        params: Any,
        model_state: Any,
        average: Model | None,
        kfac: KFACState | None,
        batch: Mapping[str, Any],
        rng: jax.Array,
        rates: Rates,
    ) -> Updated:
        passed = passes(workload, settings, params, model_state, batch, rng)
        return apply(first_order, params, model_state, average, kfac, passed, rates)

    return Steps(
        settings,
        preconditioner,
        plain=compiled(plain, donate_argnums=(0, 1, 2, 3)),
        statistics=compiled(
            functools.partial(_statistics, workload, settings, preconditioner),
            donate_argnums=0,
        ),
        inverses=compiled(inverses, donate_argnums=0),
        apply=compiled(apply, donate_argnums=(0, 1, 2, 3)),
    )


def compiler_options(backend: str) -> dict[str, int] | None:
    """Returns what the compiler is told beyond its defaults.

    For a CPU its highest level of optimisation takes a third more time and makes steps
    no faster: their time is in products, which a library computes.
    """
    return {'xla_backend_optimization_level': 1} if backend == 'cpu' else None


def passes(
    workload: Any,
    settings: Settings,
    params: Any,
    model_state: Any,
    batch: Mapping[str, Any],
    rng: jax.Array,
) -> Passes:
    """Runs the passes of a step between two updates of the statistics."""
    forward, mean_loss = _model_and_loss(workload, settings, model_state, batch, rng)
    outputs, backward, stepped = jax.vjp(forward, params, has_aux=True)
    (loss, _), output_gradient = jax.value_and_grad(mean_loss, has_aux=True)(outputs)
    (gradients,) = backward(output_gradient)
    return Passes(gradients, stepped, loss)


def watched_passes(
    workload: Any,
    settings: Settings,
    capture: Capture,
    params: Any,
    model_state: Any,
    batch: Mapping[str, Any],
    rng: jax.Array,
) -> tuple[Passes, Watched]:
    """Runs the passes of a statistics step."""
    forward, mean_loss = _model_and_loss(workload, settings, model_state, batch, rng)
    outputs, backward, stepped = capture.vjp(forward, params)
    (loss, loss_terms), output_gradient = jax.value_and_grad(mean_loss, has_aux=True)(
        outputs
    )
    gradients, sums = backward(output_gradient)
    gradient_scale = loss_terms
    likelihood = likelihood_to_sample(settings, workload.loss_type.name, outputs, batch)
    if likelihood is not None:
        label_rng = jax.random.fold_in(rng, _LABEL_STREAM)
        _, sums = backward(
            _sampled_gradient(likelihood, workload, outputs, batch, label_rng)
        )
        gradient_scale = jnp.ones_like(loss_terms)
    return (
        Passes(gradients, stepped, loss),
        Watched(sums, loss_terms, gradient_scale),
    )


def _statistics(
    workload: Any,
    settings: Settings,
    preconditioner: KFACPreconditioner | None,
    kfac: KFACState,
    params: Any,
    model_state: Any,
    batch: Mapping[str, Any],
    rng: jax.Array,
) -> tuple[KFACState, Passes]:
    """Runs the passes of a statistics step, and moves the Kronecker factors."""
    assert preconditioner is not None
    capture = preconditioner.capture(batch, kfac.counters['factor_updates'])
    passed, watched = watched_passes(
        workload, settings, capture, params, model_state, batch, rng
    )
    preconditioner.log_unreached(capture, watched.sums)
    return preconditioner.update_factors(kfac, *watched), passed


def _apply(
    optimizer: FirstOrderOptimizer,
    first_order: FirstOrderState,
    params: Any,
    model_state: Any,
    average: Model | None,
    kfac: KFACState | None,
    passed: Passes,
    rates: Rates,
) -> Updated:
    """Updates the parameters.

    Args:
      optimizer: The first-order rule, with the preconditioner.
      first_order: Its state.
      params: The parameters.
      model_state: The model's state before the step.
      average: The averaged parameters; None without them.
      kfac: State of the preconditioner; None without one.
      passed: What came of the passes.
      rates: What depends on the number of the step.
    """
    params, first_order, norm = optimizer.step(
        params, passed.gradients, first_order, kfac, rates.learning_rate
    )
    # A moving average of batch statistics that took in NaN would stay so for good.
    model_state = _kept_unless(jnp.isfinite(norm), passed.model_state, model_state)
    trained = Model(params, model_state)
    if average is not None:
        average = parameter_average.moved(average, trained, rates.newest_share)
    scalars = {'loss': passed.loss, 'grad_norm': norm}
    return Updated(first_order, trained, average, scalars)


def _kept_unless(counts: jax.Array, stepped: Any, before: Any) -> Any:
    """Returns the model's state after a step, or before it where that was skipped.

    One without arrays keeps its form. AlgoPerf's ViT begins with an empty
    mapping and returns None; that would be compiled anew, and could not be restored.
    Arrays keep theirs too: the batch statistics of AlgoPerf's speech models begin as
    `[features]` and come back as `[1, 1, features]`.
    """
    if not jax.tree.leaves(stepped):
        return before
    old = flatten(before)
    kept = {
        name: _kept_array(counts, value, old[name]) if name in old else value
        for name, value in flatten(stepped).items()
    }
    return unflatten(kept, stepped)


def _kept_array(counts: jax.Array, stepped: jax.Array, before: jax.Array) -> jax.Array:
    if stepped.size == before.size:
        stepped = stepped.reshape(before.shape)
    return jnp.where(counts, stepped, before)


def _model_and_loss(
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


def _sampled_gradient(
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
    kfac, averaging, first_order = state
    average = None
    if averaging is not None:
        (params, model_state), average = averaging
    rates = Rates(
        scheduled_learning_rate(settings, workload.step_hint, global_step),
        newest_share(global_step, settings.averaging_power or 0.0),
    )
    batch = sharding.shard_batch(batch)
    passed = None
    if preconditioner is not None and settings.is_statistics_step(global_step):
        kfac, passed = steps.statistics(kfac, params, model_state, batch, rng)
    if preconditioner is not None and settings.is_inverse_step(global_step):
        kfac = steps.inverses(kfac)
    if passed is None:
        updated = steps.plain(
            first_order, params, model_state, average, kfac, batch, rng, rates
        )
    else:
        updated = steps.apply(
            first_order, params, model_state, average, kfac, passed, rates
        )
    if updated.average is not None:
        averaging = ParameterAverage(updated.trained, updated.average)
    state = OptimizerState(kfac, averaging, updated.first_order)
    if global_step % LOG_INTERVAL == 0:
        _log(workload, global_step, updated.scalars, state, preconditioner)
    return (state, steps), *updated.trained


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
    if preconditioner is not None and state.kfac is not None:
        names = state.kfac.factors.stacks.order
        preconditioner.log_vanished(
            int(counts['factor_updates']), dict(zip(names, weights, strict=True))
        )
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
    """Returns the averaged parameters, where the trial has them, to be evaluated."""
    del workload, current_params_types, hyperparameters, loss_type, eval_results
    del global_step, rng
    state, _ = optimizer_state
    if state.average is None:
        return optimizer_state, current_param_container, model_state
    return optimizer_state, *state.average.average


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
