import math

import numpy as np
import pytest

from workloads_overrides.ogbg_chembl import metrics


def test_mean_average_precision_by_hand():
    # Task 0 ranks + - + -: precision 1 at recall 1/2, 2/3 at recall 1: 5/6.
    # Task 1 ranks - +: 1/2. Task 2 has no negative and does not count.
    logits = np.array([[4.0, 0.2, 1.0], [3.0, 0.1, 2.0], [2.0, 9.0, 0.0], [1.0, -9, 0]])
    labels = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 0]])
    mask = np.array([[1, 1, 1], [1, 1, 1], [1, 0, 0], [1, 0, 0]])
    value = metrics.mean_average_precision(logits, labels, mask)
    assert value == pytest.approx((5 / 6 + 1 / 2) / 2)


def test_unlabelled_cells_do_not_matter():
    rng = np.random.default_rng(0)
    logits, mask = rng.normal(size=(50, 6)), rng.random((50, 6)) < 0.5
    labels = (rng.random((50, 6)) < 0.4).astype(np.float32)
    value = metrics.evaluate(logits, labels, mask, 3.0)
    other_logits = np.where(mask, logits, np.nan)
    other_labels = np.where(mask, labels, 1 - labels)
    assert metrics.evaluate(other_logits, other_labels, mask, 3.0) == value
    assert metrics.evaluate(logits, 1 - labels, mask, 3.0) != value


def test_loss_and_accuracy_are_averages_over_labels():
    logits = np.array([[1.0, -1.0], [2.0, 5.0]])
    labels = np.array([[1.0, 1.0], [0.0, 1.0]])
    mask = np.array([[1, 1], [1, 0]])
    result = metrics.evaluate(logits, labels, mask, summed_loss=6.0)
    assert result['loss'] == 2.0
    assert result['accuracy'] == pytest.approx(1 / 3)


def test_diverged_or_one_sided_results_are_nan():
    ones = np.ones((2, 1))
    labels = np.array([[0], [1]])
    nan = metrics.mean_average_precision(np.array([[0.0], [np.nan]]), labels, ones)
    assert math.isnan(nan)
    assert math.isnan(metrics.mean_average_precision(ones, ones, ones))


def test_no_labels_is_an_error():
    zeros = np.zeros((2, 3))
    with pytest.raises(ValueError, match='no label'):
        metrics.evaluate(zeros, zeros, zeros, 0.0)
