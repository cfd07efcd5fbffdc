"""Gradients of labels sampled from the model's predictive distribution.

The Fisher equals the GGN for the losses that AlgoPerf trains with, softmax and
sigmoid cross entropy and squared error, all of them negative log-likelihoods of an
exponential family in its natural parameters. For these the gradient with respect
to the model's output is `mean - label`, so sampling a label gives the gradient at
once, without calling the loss.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ..likelihood import Likelihood


def sampled_output_gradient(
    likelihood: Likelihood,
    outputs: jax.Array,
    batch: Mapping[str, Any],
    rng: jax.Array,
    squared_error_scale: jax.Array | float = 1.0,
) -> jax.Array:
    """Samples labels and returns the gradient of their loss with respect to outputs.

    The mean of its outer product over samples is the Hessian of the summed loss. A
    loss term of weight w has w times the Hessian of one of weight 1, so its gradient
    is multiplied with the root of w.

    Args:
      likelihood: The predictive distribution.
      outputs: The model's output; classes along the last axis if categorical.
      batch: Its `weights`, if any, are the weights of the loss terms.
      rng: Key of the samples.
      squared_error_scale: c, for a loss `c * (output - label)**2`.

    Returns:
      An array of the shape of `outputs`.
    """
    if likelihood is Likelihood.CATEGORICAL:
        labels = jax.random.categorical(rng, outputs)
        one_hot = jax.nn.one_hot(labels, outputs.shape[-1], dtype=outputs.dtype)
        gradient = jax.nn.softmax(outputs) - one_hot
    elif likelihood is Likelihood.BERNOULLI:
        probabilities = jax.nn.sigmoid(outputs)
        gradient = probabilities - jax.random.bernoulli(rng, probabilities)
    else:
        # exp(-c e**2) is a Gaussian of variance 1 / (2 c); the gradient is 2 c e.
        noise = jax.random.normal(rng, outputs.shape, outputs.dtype)
        gradient = noise * jnp.sqrt(2.0 * squared_error_scale)
    weights = batch.get('weights')
    if weights is not None:
        # One weight for an example or position covers all its outputs.
        roots = jnp.sqrt(jnp.asarray(weights).astype(gradient.dtype))
        missing = outputs.ndim - roots.ndim
        gradient = gradient * roots.reshape(roots.shape + (1,) * missing)
    return gradient.astype(outputs.dtype)


def squared_error_scale(workload: Any, outputs: jax.Array) -> jax.Array:
    """Measures c in the workload's loss `c * (output - label)**2`.

    Workloads differ in whether they halve the squared error.
    """
    outputs = outputs[:1]
    return workload.loss_fn(outputs + 1.0, outputs)['summed'] / outputs.size
