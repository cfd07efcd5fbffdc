"""Dropout whose rate is given at each call."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


class Dropout(nn.Module):
    """Sets values to zero at random and scales the others up.

    Flax's own has a fixed rate, while AlgoPerf's workloads get it with each batch,
    and its reference submissions pass it into a compiled step as a traced value.
    """

    @nn.compact
    def __call__(self, x: jax.Array, rate: Any, train: bool) -> jax.Array:
        """Returns an array of the shape of `x`.

        Args:
            x: Any array.
            rate: Probability of a zero, below 1: a number or a traced scalar. The
                number 0 leaves no trace in the compiled step.
            train: Whether to drop at all.
        """
        if not train or (isinstance(rate, int | float) and rate == 0):
            return x
        keep = 1 - rate
        kept = jax.random.bernoulli(self.make_rng('dropout'), keep, x.shape)
        return jnp.where(kept, x / keep, 0)
