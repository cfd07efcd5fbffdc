"""The fake workload in Flax, and the configuration of a short study of it."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from tests.workloads_overrides.runner import fakes
from workloads_overrides.flax_dropout import Dropout
from workloads_overrides.jax_workload import JaxWorkload
from workloads_overrides.registry import Entry

_MODULE = 'tests.workloads_overrides.runner'
SUBMISSION_PATH = f'{_MODULE.replace(".", "/")}/fake_jax_submission.py'
ENTRIES = {'fake_flax': Entry('fake', {'jax': f'{_MODULE}.jax_fakes:FakeWorkload'})}


class Queue(fakes.Queue):
    def __next__(self):
        return {name: tensor.numpy() for name, tensor in super().__next__().items()}


class Network(nn.Module):
    @nn.compact
    def __call__(self, x, train, dropout_rate=0.5):
        return nn.Dense(2)(Dropout()(nn.Dense(8)(x), dropout_rate, train))


class FakeWorkload(JaxWorkload, fakes.FakeWorkload):
    default_dropout_rate = 0.5
    model_fn = JaxWorkload.model_fn

    def _build_input_queue(self, data_rng, split, data_dir, global_batch_size, **_):
        return Queue(data_rng, global_batch_size)

    def init_model_fn(self, rng):
        return self._initialised(rng, Network(), jnp.ones((1, 4)))

    def loss_fn(self, label_batch, logits_batch, *_, **__):
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits_batch, label_batch
        )
        return {
            'summed': losses.sum(),
            'n_valid_examples': len(losses),
            'per_example': losses,
        }

    def _evaluate_batch(self, params, batch):
        return jax.tree.leaves(params)


def study_config(folder, **changes):
    settings = {
        'workload': 'fake_flax',
        'framework': 'jax',
        'submission_path': SUBMISSION_PATH,
    }
    return fakes.study_config(folder, **{**settings, **changes})
