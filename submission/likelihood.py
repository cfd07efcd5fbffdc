"""What the model's output says of the labels, the same in both frameworks."""

import enum
from collections.abc import Mapping
from typing import Any

from absl import logging

from .settings import Settings


class Likelihood(enum.Enum):
    """What the model's output parametrises."""

    CATEGORICAL = 'categorical'
    BERNOULLI = 'independent Bernoulli'
    GAUSSIAN = 'Gaussian'


def likelihood_of(
    loss_type_name: str, outputs: Any, batch: Mapping[str, Any]
) -> Likelihood | None:
    """Returns the likelihood behind a workload's loss, None if there is no simple one.

    Args:
      loss_type_name: Name of the workload's loss type.
      outputs: The model's output for the batch.
      batch: The batch.
    """
    # Several outputs, such as logits and their paddings, have no shape together.
    if not hasattr(outputs, 'shape'):
        return None
    if loss_type_name == 'MEAN_SQUARED_ERROR':
        return Likelihood.GAUSSIAN
    if loss_type_name == 'SIGMOID_CROSS_ENTROPY':
        return Likelihood.BERNOULLI
    if loss_type_name != 'SOFTMAX_CROSS_ENTROPY':
        return None
    weights = batch.get('weights')
    if (
        weights is not None
        and len(outputs.shape) > 1
        and weights.shape == outputs.shape
    ):
        # A softmax has one loss for all classes together. A weight for each output
        # means a loss for each output, whatever the loss type says: AlgoPerf's
        # ogbg declares softmax, and its loss is a masked sigmoid cross entropy.
        return Likelihood.BERNOULLI
    labels_shape = getattr(batch.get('targets'), 'shape', None)
    if (
        labels_shape is not None
        and len(labels_shape) == len(outputs.shape) - 1
        and tuple(labels_shape) != tuple(outputs.shape[:-1])
    ):
        # The classes lie along another axis, such as the second one of images.
        return None
    return Likelihood.CATEGORICAL


def likelihood_to_sample(
    settings: Settings, loss_type_name: str, outputs: Any, batch: Mapping[str, Any]
) -> Likelihood | None:
    """Returns what to sample labels from, None for the training labels.

    Args:
      settings: The trial's settings.
      loss_type_name: Name of the workload's loss type.
      outputs: The model's output for the batch.
      batch: The batch.
    """
    if settings.fisher_type == 'empirical':
        return None
    likelihood = likelihood_of(loss_type_name, outputs, batch)
    if likelihood is None:
        logging.log_first_n(
            logging.WARNING,
            'K-FAC: no label distribution is known for a loss of type %s on outputs of '
            'shape %s; using the empirical Fisher in place of the Monte-Carlo one.',
            1,
            loss_type_name,
            getattr(outputs, 'shape', None),
        )
    return likelihood
