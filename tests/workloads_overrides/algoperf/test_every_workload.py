"""The submission trains the models of AlgoPerf's other base workloads too.

Those of ogbg and imagenet_vit have variants here, which other files train.
"""

import functools
import json
import logging
import re

import numpy as np
import pytest

from tests.workloads_overrides.algoperf.conftest import REASON, ROOT

pytest.importorskip('algoperf', reason=REASON)
pytestmark = pytest.mark.algoperf

import jax  # noqa: E402
import torch  # noqa: E402
from algoperf import spec  # noqa: E402

from submission import jax_submission  # noqa: E402
from tests.workloads_overrides.algoperf import base_workloads  # noqa: E402
from tests.workloads_overrides.algoperf.training import (  # noqa: E402
    Run,
    key,
    submission_module,
)

# The last has new statistics, the fourth ones of the points that AlgoPerf tries.
NUM_STEPS = 21
# Short enough for the warm-up to be over after two steps.
STEP_HINT = 40

# The kinds of modules whose parameters K-FAC trains, and those that it leaves.
KINDS = {
    ('criteo1tb', 'pytorch'): ({'Linear'}, {'DlrmSmall'}),
    ('criteo1tb', 'jax'): ({'Dense'}, {'DlrmSmall'}),
    ('fastmri', 'pytorch'): ({'Conv2d', 'ConvTranspose2d'}, set()),
    ('fastmri', 'jax'): ({'Conv', 'ConvTranspose'}, set()),
    ('imagenet_resnet', 'pytorch'): ({'Conv2d', 'Linear'}, {'BatchNorm2d'}),
    ('imagenet_resnet', 'jax'): ({'Conv', 'Dense'}, {'BatchNorm'}),
    ('librispeech_conformer', 'pytorch'): (
        {'Conv1d', 'Linear'},
        {'BatchNorm', 'Conv2dSubsampling', 'LayerNorm', 'QueryScaler'},
    ),
    ('librispeech_conformer', 'jax'): (
        {'Conv', 'Dense', 'DenseGeneral'},
        {'BatchNorm', 'Conv2dSubsampling', 'LayerNorm', 'QueryScaler'},
    ),
    ('librispeech_deepspeech', 'pytorch'): (
        {'Linear'},
        {'BatchNorm', 'Conv2dSubsampling', 'LSTM', 'LayerNorm'},
    ),
    # The parameters of the LSTM's products are in modules of another name.
    ('librispeech_deepspeech', 'jax'): (
        {'Dense'},
        {'BatchNorm', 'Conv2dSubsampling', 'DenseParams', 'LayerNorm'},
    ),
    ('wmt', 'pytorch'): ({'Linear'}, {'Embedding', 'LayerNorm'}),
    ('wmt', 'jax'): ({'Dense', 'DenseGeneral'}, {'Embed', 'LayerNorm'}),
}


# What K-FAC-reduce sees of gradients cancels below a normalisation over all positions
# and where keys of attention come from a layer of their own.
CANCELLING = {
    ('fastmri', 'pytorch'): 'conv_layers|up_transpose_conv|down_sample_layers',
    ('fastmri', 'jax'): 'ConvBlock|TransposeConvBlock',
    ('librispeech_conformer', 'jax'): '/key$',
    ('wmt', 'jax'): '/key$',
}


def point_with(rule, approximation):
    """Returns the first such point of those that AlgoPerf tries."""
    points = json.loads((ROOT / 'tuning_search_space.json').read_text())
    return next(
        point
        for point in points
        if (point['first_order_rule'], point['approximation']) == (rule, approximation)
    )


class SmallRun(Run):
    """A run of a base workload with a small model, on one batch."""

    def __init__(self, name, framework, point):
        super().__init__(
            name,
            framework,
            submission_module(framework),
            point,
            step_hint=STEP_HINT,
        )
        self.batch = base_workloads.fixed_batch(name, framework)

    def _workload_class(self, name, framework):
        return base_workloads.small_class(name, framework)

    def loss(self):
        """Returns the mean loss on the batch, masks being those of a fixed key."""
        if self.framework == 'jax':
            return float(self._jitted_loss(self.params, self.model_state))
        torch.manual_seed(14)
        with torch.no_grad():
            return self._loss(self.params, self.model_state).item()

    @functools.cached_property
    def _jitted_loss(self):
        return jax.jit(self._loss)

    def _loss(self, params, model_state):
        outputs, _ = self.workload.model_fn(
            params,
            self.batch,
            model_state,
            # After so few steps running statistics are still near their first values.
            spec.ForwardPassMode.TRAIN,
            key(self.framework, 14),
            update_batch_norm=True,
            dropout_rate=0.0,
        )
        loss = self.workload.loss_fn(
            self.batch['targets'], outputs, self.batch.get('weights')
        )
        return loss['summed'] / loss['n_valid_examples']

    def assignments(self):
        return self._preconditioner.assignments

    @property
    def _preconditioner(self):
        if self.framework == 'jax':
            return self.optimizer_state[1].preconditioner
        return self.optimizer_state['preconditioner']

    def counters(self):
        if self.framework == 'jax':
            state = self.optimizer_state[0]
            counters, skipped = state.kfac.counters, state.first_order.skipped_steps
        else:
            counters = self._preconditioner.counters
            skipped = self.optimizer_state['optimizer'].skipped_steps
        counters = {name: int(count) for name, count in counters.items()}
        return {**counters, 'skipped_steps': int(skipped)}

    def layers_with_one_side(self):
        """Returns the layers that are not preconditioned on both sides."""
        layers = self._preconditioner.layers
        if self.framework == 'jax':
            kfac = self.optimizer_state[0].kfac
            scales = self._preconditioner.curvature_scales(kfac, layers)
        else:
            scales = map(self._preconditioner.curvature_scale, layers)
        return [
            layer.name for layer, scale in zip(layers, scales, strict=True) if not scale
        ]

    def model_arrays(self):
        """Returns the parameters and the statistics of the model."""
        if self.framework == 'jax':
            return jax.tree.leaves((self.params, self.model_state))
        return [tensor.numpy() for tensor in self.params.state_dict().values()]


@pytest.fixture(autouse=True)
def _compiled_quickly(monkeypatch):
    # The submission asks for more optimisation than the tests do, which takes half of
    # their time here.
    monkeypatch.setattr(jax_submission, 'compiler_options', lambda backend: None)


@pytest.mark.parametrize(
    ('rule', 'approximation'), [('nadamw', 'reduce'), ('spectral', 'expand')]
)
@pytest.mark.parametrize(('name', 'framework'), KINDS)
def test_a_point_of_the_search_space_trains_it(
    name, framework, rule, approximation, caplog
):
    run = SmallRun(name, framework, point_with(rule, approximation))
    trained, left = KINDS[name, framework]
    reasons = [(each.is_kfac, each.reason) for each in run.assignments()]
    assert {reason.split()[0] for is_kfac, reason in reasons if is_kfac} == trained
    assert {reason for is_kfac, reason in reasons if not is_kfac} == {
        f'{kind} has no Kronecker factors' for kind in left
    }

    before = run.loss()
    run.train([run.batch], NUM_STEPS)
    run.prepare_for_eval()
    assert run.loss() < 0.7 * before
    assert all(np.isfinite(array).all() for array in run.model_arrays())
    assert run.counters() == {
        'factor_updates': 4,
        'inverse_updates': 4,
        'skipped_statistics': 0,
        'failed_inverses': 0,
        'skipped_steps': 0,
    }
    cancelling = (
        CANCELLING.get((name, framework)) if approximation == 'reduce' else None
    )
    for layer in run.layers_with_one_side():
        assert cancelling is not None, layer
        assert re.search(cancelling, layer), layer
    warnings = [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and 'K-FAC: ' in record.getMessage()
    ]
    # Said of the losses that have no distribution of labels, once in a process.
    assert not [each for each in warnings if 'no label distribution' not in each]
