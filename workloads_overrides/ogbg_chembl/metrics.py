"""Loss, accuracy and mean average precision over the labels that exist."""

import numpy as np
import sklearn
from sklearn.metrics import average_precision_score


def mean_average_precision(
    logits: np.ndarray, labels: np.ndarray, mask: np.ndarray
) -> float:
    """Returns the average precision of each task, averaged over tasks.

    Tasks without a positive or without a negative label do not count. The result
    is NaN if no task counts, or if a logit is not finite: a diverged model must
    not end the run with an error.

    Args:
        logits: any increasing function of the probabilities, `[n, n_tasks]`.
        labels: 0 or 1, anything where `mask` is false, `[n, n_tasks]`.
        mask: where there is a label, `[n, n_tasks]`.
    """
    mask = mask.astype(bool)
    if not np.isfinite(logits[mask]).all():
        return float('nan')
    positives = ((labels == 1) & mask).sum(axis=0)
    defined = np.flatnonzero((positives > 0) & (positives < mask.sum(axis=0)))
    if not len(defined):
        return float('nan')
    # The checks take longer than the work on a few hundred labels.
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        precisions = [
            average_precision_score(
                labels[mask[:, task], task], logits[mask[:, task], task]
            )
            for task in defined
        ]
    return float(np.mean(precisions))


def evaluate(
    logits: np.ndarray, labels: np.ndarray, mask: np.ndarray, summed_loss: float
) -> dict[str, float]:
    """Returns the metrics of a split.

    Args:
        logits: `[n, n_tasks]`.
        labels: 0 or 1, anything where `mask` is false, `[n, n_tasks]`.
        mask: where there is a label, `[n, n_tasks]`.
        summed_loss: the sum of the loss over all labels.

    Returns:
        'loss' and 'accuracy', averaged over labels, and 'mean_average_precision'.
    """
    mask = mask.astype(bool)
    num_labels = int(mask.sum())
    if num_labels == 0:
        raise ValueError('There is no label to evaluate on.')
    correct = ((logits > 0) == (labels == 1)) & mask
    return {
        'loss': summed_loss / num_labels,
        'accuracy': float(correct.sum()) / num_labels,
        'mean_average_precision': mean_average_precision(logits, labels, mask),
    }
