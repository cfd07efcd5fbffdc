"""Without K-FAC the submission is AlgoPerf's NAdamW baseline."""

import numpy as np
import pytest

from tests.workloads_overrides.algoperf.conftest import REASON

pytest.importorskip('algoperf', reason=REASON)
pytestmark = pytest.mark.algoperf

from tests.workloads_overrides.algoperf.training import (  # noqa: E402
    Run,
    baseline_module,
    submission_module,
)

NUM_STEPS = 50
# The norm is about 0.5 on these batches, so that each step is clipped.
HYPERPARAMETERS = {
    'approximation': 'none',
    'learning_rate': 0.003,
    'one_minus_beta1': 0.1,
    'beta2': 0.95,
    'weight_decay': 0.1,
    'warmup_factor': 0.2,
    'step_hint_factor': 1.0,
    'dropout_rate': 0.0,
    'label_smoothing': 0.2,
    'grad_clip': 0.2,
}


# The largest difference, in units of the distance that the parameters move. In double
# precision the same formulas agree to the last digits, but for the learning rate, which
# the JAX baseline computes in float32. In single precision rounding now and then puts
# an activation on the other side of ReLU's kink, which changes a gradient by a jump;
# with a smooth activation it stays rounding.
CASES = [
    ('ogbg_small', 'pytorch', True, 1e-12),
    ('ogbg_small', 'jax', True, 1e-6),
    ('ogbg_gelu_small', 'pytorch', False, 3e-5),
    ('ogbg_gelu_small', 'jax', False, 3e-5),
    ('ogbg_small', 'pytorch', False, 5e-3),
    ('ogbg_small', 'jax', False, 5e-3),
]


def flat(run):
    parameters = run.parameters()
    return np.concatenate([parameters[name].ravel() for name in sorted(parameters)])


@pytest.mark.parametrize(('workload', 'framework', 'double', 'tolerance'), CASES)
def test_fifty_steps_equal_the_baseline(
    workload, framework, double, tolerance, data_dir
):
    baseline, ours = (
        Run(
            workload,
            framework,
            module,
            HYPERPARAMETERS,
            double,
            # Warm-up and most of the decay lie within the steps taken.
            step_hint=NUM_STEPS + 10,
        )
        for module in (baseline_module(framework), submission_module(framework))
    )
    batches = baseline.batches(data_dir, batch_size=16, count=4)
    initial = flat(baseline)
    assert initial.dtype == (np.float64 if double else np.float32)
    np.testing.assert_array_equal(flat(ours), initial)
    for run in (baseline, ours):
        run.train(batches, NUM_STEPS)
    moved = np.linalg.norm(flat(baseline) - initial)
    assert moved > 1
    difference = np.linalg.norm(flat(ours) - flat(baseline)) / moved
    assert difference < tolerance
