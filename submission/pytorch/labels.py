"""Gradients of labels sampled from the model's predictive distribution.

The Fisher equals the GGN for the losses that AlgoPerf trains with, softmax and
sigmoid cross entropy and squared error, all of them negative log-likelihoods of an
exponential family in its natural parameters. For these the gradient with respect
to the model's output is `mean - label`, so sampling a label gives the gradient at
once, without calling the loss.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..likelihood import Likelihood


def sampled_output_gradient(
    likelihood: Likelihood,
    outputs: Tensor,
    batch: Mapping[str, Any],
    generator: torch.Generator,
    squared_error_scale: float = 1.0,
) -> Tensor:
    """Samples labels and returns the gradient of their loss with respect to outputs.

    The mean of its outer product over samples is the Hessian of the summed loss. A
    loss term of weight w has w times the Hessian of one of weight 1, so its gradient
    is multiplied with the root of w.

    Args:
      likelihood: The predictive distribution.
      outputs: The model's output; classes along the last axis if categorical.
      batch: Its `weights`, if any, are the weights of the loss terms.
      generator: Source of the samples.
      squared_error_scale: c, for a loss `c * (output - label)**2`.

    Returns:
      A tensor of the shape of `outputs`.

    Raises:
      ValueError: If the weights do not have the leading axes of the outputs.
    """
    outputs = outputs.detach()
    if likelihood is Likelihood.CATEGORICAL:
        probabilities = F.softmax(outputs, -1)
        flat = probabilities.reshape(-1, outputs.shape[-1])
        labels = torch.multinomial(_sampleable(flat), 1, generator=generator)
        gradient = probabilities - torch.zeros_like(flat).scatter_(1, labels, 1.0).view(
            outputs.shape
        )
    elif likelihood is Likelihood.BERNOULLI:
        probabilities = torch.sigmoid(outputs)
        labels = torch.bernoulli(_sampleable(probabilities), generator=generator)
        gradient = probabilities - labels
    else:
        # exp(-c e**2) is a Gaussian of variance 1 / (2 c); the gradient is 2 c e.
        noise = torch.empty_like(outputs).normal_(generator=generator)
        gradient = noise * (2.0 * squared_error_scale) ** 0.5
    weights = batch.get('weights')
    if weights is not None:
        # One weight for an example or position covers all its outputs.
        missing = outputs.dim() - weights.dim()
        if missing < 0 or any(
            size not in (1, full)
            for size, full in zip(weights.shape, outputs.shape, strict=False)
        ):
            raise ValueError(
                f'Loss weights of shape {tuple(weights.shape)} do not fit outputs of '
                f'shape {tuple(outputs.shape)}: they need its leading axes.'
            )
        roots = weights.to(gradient).sqrt()
        gradient = gradient * roots.reshape(roots.shape + (1,) * missing)
    return gradient


def _sampleable(probabilities: Tensor) -> Tensor:
    """Puts a number where there is none, for sampling would fail on it.

    The gradient is not a number there all the same, and such statistics are skipped.
    """
    return torch.where(torch.isfinite(probabilities), probabilities, 1.0)


def squared_error_scale(workload: Any, outputs: Tensor) -> float:
    """Measures c in the workload's loss `c * (output - label)**2`.

    Workloads differ in whether they halve the squared error.
    """
    outputs = outputs.detach()[:1]
    return float(workload.loss_fn(outputs + 1.0, outputs)['summed']) / outputs.numel()
