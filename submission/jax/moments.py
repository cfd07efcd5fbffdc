"""Moving averages of gradients as optax transformations, and NAdamW's among them."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

_EPSILON = 1e-8


class MomentsState(NamedTuple):
    """The moments of gradients.

    Attributes:
      steps: Number of gradients taken in.
      first: First moments, shaped like the parameters.
      squares: Second moments; None where the rule has none.
    """

    steps: jax.Array
    first: Any
    squares: Any


def scale_by_nadam(beta1: float, beta2: float) -> optax.GradientTransformation:
    """NAdam as in Table 1 of Choi et al. (2019), the rule of AlgoPerf's baseline.

    optax's own `scale_by_adam(nesterov=True)` corrects the bias of the look-ahead in
    another way and does not give the baseline's numbers.

    Args:
      beta1: Decay of the first moment.
      beta2: Decay of the second moment.
    """
    return _scale_by_moments(beta1, beta2)


def scale_by_nesterov(beta1: float) -> optax.GradientTransformation:
    """Nesterov momentum as a moving average with bias correction.

    Args:
      beta1: Decay of the moment.
    """
    return _scale_by_moments(beta1, None)


def _scale_by_moments(
    beta1: float, beta2: float | None
) -> optax.GradientTransformation:
    def init(params: Any) -> MomentsState:
        def zeros() -> Any:
            return jax.tree.map(jnp.zeros_like, params)

        return MomentsState(
            jnp.zeros((), jnp.int32), zeros(), None if beta2 is None else zeros()
        )

    def update(
        updates: Any, state: MomentsState, params: Any = None
    ) -> tuple[Any, MomentsState]:
        del params
        steps = state.steps + 1

        def average(moment: jax.Array, value: jax.Array) -> jax.Array:
            return moment + (1.0 - beta1) * (value - moment)

        first = jax.tree.map(average, state.first, updates)
        # Nesterov: the moment as the next step will see it.
        directions = jax.tree.map(
            lambda moment, g: average(moment, g) / _correction(beta1, steps, g.dtype),
            first,
            updates,
        )
        if beta2 is None:
            return directions, MomentsState(steps, first, None)
        squares = jax.tree.map(
            lambda square, g: beta2 * square + (1.0 - beta2) * g * g,
            state.squares,
            updates,
        )
        directions = jax.tree.map(
            lambda direction, square: (
                direction
                / (
                    jnp.sqrt(square) / jnp.sqrt(_correction(beta2, steps, square.dtype))
                    + _EPSILON
                )
            ),
            directions,
            squares,
        )
        return directions, MomentsState(steps, first, squares)

    return optax.GradientTransformation(init, update)


def _correction(beta: float, steps: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Returns the sum of the weights in a moving average that began at zero."""
    if beta == 0.0:
        return jnp.ones((), dtype)
    # 1 - beta**steps without the cancellation.
    return -jnp.expm1(steps.astype(dtype) * math.log(beta))
