"""The parts of a step in JAX, by compiling them one by one.

A compiled step has no parts to time, so each is compiled by itself from the
submission's own functions. Three kinds of passes are: forward and backward alone;
the same while factor sums are taken from the gradients of the training loss; and with
a second backward pass from sampled labels, from which the sums are taken instead. The
second minus the first is what the sums cost, the third minus the second what the extra
backward pass costs. The moving averages of the factors count as factors.

What a whole step takes beyond the parts is the rest: the Python around it and the
call of the compiled function, less what the compiler saves when it sees all parts
together. It can be negative.
"""

import collections
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experiments.step_time.runs import Run
from experiments.step_time.variants import FISHER_TYPES, NADAMW
from submission import jax_submission
from submission.jax import sharding
from submission.jax.first_order import FirstOrderOptimizer
from submission.jax.naming import flatten
from submission.jax.preconditioner import KFACPreconditioner
from submission.settings import FisherType

Stages = dict[str, Callable[[], Any]]
Timers = dict[str, Callable[[], float]]

# A few steps move a head that starts at zero, below which there is no curvature.
_FIRST_STEPS = 3


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles as the submission does."""
    options = jax_submission.compiler_options(jax.default_backend())
    return jax.jit(function, compiler_options=options)


def _stages_without_kfac(run: Run) -> tuple[Stages, tuple[Any, Any, Any]]:
    """Returns the parts of NAdamW's step, and parameters, batch and gradients."""
    batch, key = sharding.shard_batch(next(run.training.queue)), run.training.key
    # Copies: a step takes over the arrays of the run.
    params, model_state = jax.tree.map(jnp.copy, run.training.state[1:])
    optimizer = FirstOrderOptimizer(run.settings, None)
    passes = _compiled(
        functools.partial(jax_submission.passes, run.training.workload, run.settings)
    )
    first_order = _compiled(
        lambda params, gradients, state: optimizer.step(
            params, gradients, state, None, 1e-3
        )
    )
    moments = optimizer.init(params)
    for _ in range(_FIRST_STEPS):
        gradients, *_ = passes(params, model_state, batch, key)
        params, moments, _ = first_order(params, gradients, moments)
    stages: Stages = {
        'passes': lambda: passes(params, model_state, batch, key),
        'first-order rule': lambda: first_order(params, gradients, moments),
    }
    return stages, (params, batch, gradients)


def _stages_of_kfac(
    run: Run, params: Any, batch: Any, gradients: Any, with_factor_work: bool
) -> Stages:
    """Returns the parts that K-FAC adds to a step.

    Args:
      run: A run with K-FAC.
      params: The parameters.
      batch: The batch.
      gradients: Gradients of the parameters.
      with_factor_work: Whether also what works on factors alone, which is the same
        for all approximations.
    """
    preconditioner = run.training.state[0][1].preconditioner
    model_state = jax.tree.map(jnp.copy, run.training.state[2])
    watched_passes = {
        fisher_type: functools.partial(
            _compiled(_watched_passes(run, preconditioner, fisher_type)),
            params,
            model_state,
            batch,
            run.training.key,
        )
        for fisher_type in FISHER_TYPES
    }
    stages: Stages = {
        f'passes, {fisher_type}': stage for fisher_type, stage in watched_passes.items()
    }
    if not with_factor_work:
        return stages
    _, watched = watched_passes['monte_carlo']()
    update = _compiled(preconditioner.update_factors)
    invert = _compiled(preconditioner.update_inverses)
    precondition = _compiled(preconditioner.precondition)
    empty = preconditioner.init(params)
    filled = update(empty, *watched)
    inverted = invert(filled)
    named = flatten(gradients)
    return {
        **stages,
        'averages': lambda: update(filled, *watched),
        'inverses': lambda: invert(filled),
        'preconditioning': lambda: precondition(inverted, named),
    }


def _watched_passes(
    run: Run, preconditioner: KFACPreconditioner, fisher_type: FisherType
) -> Callable[..., Any]:
    """Returns the passes of a statistics step by one Fisher, whatever the run's is."""
    settings = dataclasses.replace(run.settings, fisher_type=fisher_type)

    def passes(params: Any, model_state: Any, batch: Any, rng: jax.Array) -> Any:
        return jax_submission.watched_passes(
            run.training.workload,
            settings,
            preconditioner.capture(batch),
            params,
            model_state,
            batch,
            rng,
        )

    return passes


def _timed(stage: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(stage())
    return time.perf_counter() - start


def _median_seconds(timers: Timers, rounds: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    for number in range(rounds + 1):
        for name, timer in timers.items():
            taken = timer()
            # The first round compiles.
            if number > 0:
                seconds[name].append(taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure(
    runs: Mapping[str, Run], rounds: int, with_rest: bool
) -> dict[str, dict[str, dict[str, float]]]:
    """Times the parts in turn.

    Args:
      runs: Runs by name, that of NAdamW among them.
      rounds: How often each part is timed.
      with_rest: Whether to time whole steps too, for the rest.

    Returns:
      Run to kind of step to part to median seconds.
    """
    stages, (params, batch, gradients) = _stages_without_kfac(runs[NADAMW])
    seen: set[str] = set()
    for run in runs.values():
        approximation = run.settings.approximation
        if approximation == 'none' or approximation in seen:
            continue
        own = _stages_of_kfac(run, params, batch, gradients, not seen)
        seen.add(approximation)
        for name, stage in own.items():
            suffix = f', {approximation}' if name.startswith('passes') else ''
            stages[name + suffix] = stage
    timers: Timers = {
        name: functools.partial(_timed, stage) for name, stage in stages.items()
    }
    steps: Timers = {}
    if with_rest:
        for name, run in runs.items():
            for kind in run.kinds:
                steps[f'{name}, {kind}'] = functools.partial(run.take, kind)
    seconds = _median_seconds({**timers, **steps}, rounds)
    measured = {name: _parts(run, seconds) for name, run in runs.items()}
    if with_rest:
        for name, kinds in measured.items():
            for title, parts in kinds.items():
                parts['rest'] = seconds[f'{name}, {title}'] - sum(parts.values())
    return measured


def _parts(run: Run, seconds: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Returns kind of step to part to seconds, from those of the stages."""
    passes = seconds['passes']
    nadamw = {
        'forward and backward': passes,
        'first-order rule': seconds['first-order rule'],
    }
    settings = run.settings
    if settings.approximation == 'none':
        return {'plain': nadamw}
    plain = {**nadamw, 'preconditioning': seconds['preconditioning']}
    watched = seconds[f'passes, empirical, {settings.approximation}']
    sampled = seconds[f'passes, monte_carlo, {settings.approximation}']
    is_sampled = settings.fisher_type == 'monte_carlo'
    return {
        'statistics': {
            **plain,
            'extra backward': sampled - watched if is_sampled else 0.0,
            'factors': watched - passes + seconds['averages'],
            'inverses': seconds['inverses'],
        },
        'plain': plain,
    }
