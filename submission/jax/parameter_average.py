"""The averaged parameters, which take the place of the trained ones in evaluation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .naming import flatten, unflatten


class Model(NamedTuple):
    """What a forward pass needs.

    Attributes:
      params: The parameters.
      state: The model's state, such as the running statistics of batch normalisation.
    """

    params: Any
    state: Any


class ParameterAverage(NamedTuple):
    """A weighted mean of the parameters over the steps, and what is trained.

    The runner holds what it evaluates, so what is trained is remembered here; between
    evaluations it is the same arrays.

    Attributes:
      trained: The parameters under training and their state.
      average: Means of both.
    """

    trained: Model
    average: Model


def init(trained: Model) -> ParameterAverage:
    """Begins with the parameters as they are.

    Args:
      trained: The parameters and their state before the first step.
    """
    # Copies: the arrays of both are given away to a step, each by itself.
    return ParameterAverage(trained, jax.tree.map(jnp.copy, trained))


def moved(average: Model, trained: Model, share: jax.Array | float) -> Model:
    """Returns the average with one more step in it.

    Args:
      average: The average before.
      trained: The parameters and their state after the step.
      share: Share of the step, from `averaging.newest_share`.
    """
    return Model(
        _moved(average.params, trained.params, share),
        _moved(average.state, trained.state, share),
    )


def _moved(average: Any, trained: Any, share: jax.Array | float) -> Any:
    old = flatten(average)

    def move(name: str, now: jax.Array) -> jax.Array:
        # Flax may add to the model's state in its first step; counts have no mean.
        if name not in old or not jnp.issubdtype(now.dtype, jnp.inexact):
            return now
        return old[name] + (share * (now - old[name])).astype(now.dtype)

    named = {name: move(name, now) for name, now in flatten(trained).items()}
    return unflatten(named, trained)
