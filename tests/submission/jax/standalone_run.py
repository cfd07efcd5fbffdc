"""Two training steps with a copy of the submission and nothing else around.

Called as `python standalone_run.py FOLDER PACKAGE`: FOLDER holds the copy under the
dotted name PACKAGE. Prints the names of all modules imported on the way.
"""

import collections
import enum
import importlib
import sys


class _Forbidden:
    """Refuses to find what the submission must not import."""

    NAMES = (
        'algoperf',
        'workloads_overrides',
        'experiments',
        'submission',
        'tests',
        'torch',
    )

    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in self.NAMES:
            raise ImportError(f'{name} must not be imported')


class LossType(enum.Enum):
    SOFTMAX_CROSS_ENTROPY = 0


class ForwardPassMode(enum.Enum):
    TRAIN = 0


def make_workload():
    import flax.linen as nn
    import jax.numpy as jnp
    import optax

    class Workload:
        """As little of the contract as the submission uses."""

        loss_type = LossType.SOFTMAX_CROSS_ENTROPY
        step_hint = 100
        metrics_logger = None
        model = nn.Dense(3)

        def init_model_fn(self, rng):
            return self.model.init(rng, jnp.ones((8, 5)))['params'], None

        def model_fn(self, params, augmented_and_preprocessed_input_batch, **kwargs):
            assert kwargs['mode'] is ForwardPassMode.TRAIN
            inputs = augmented_and_preprocessed_input_batch['inputs']
            return self.model.apply({'params': params}, inputs), None

        def loss_fn(
            self, label_batch, logits_batch, mask_batch=None, label_smoothing=0.0
        ):
            losses = optax.softmax_cross_entropy_with_integer_labels(
                logits_batch, label_batch
            )
            return {'summed': losses.sum(), 'n_valid_examples': len(losses)}

    return Workload()


def main():
    # Libraries may look for torch; the submission must not.
    workload = make_workload()
    sys.meta_path.insert(0, _Forbidden())
    sys.path.insert(0, sys.argv[1])
    submission = importlib.import_module(f'{sys.argv[2]}.jax_submission')
    import jax
    import numpy as np

    point = {
        'learning_rate': 0.1,
        'one_minus_beta1': 0.1,
        'beta2': 0.9,
        'weight_decay': 0.0,
        'warmup_factor': 0.0,
    }
    point = collections.namedtuple('Hyperparameters', point)(**point)
    params, model_state = workload.init_model_fn(jax.random.PRNGKey(0))
    before = np.array(params['kernel'])
    state = submission.init_optimizer_state(
        workload, params, model_state, point, jax.random.PRNGKey(0)
    )
    for step in range(2):
        inputs = np.random.default_rng(step).standard_normal((8, 5), np.float32)
        state, params, model_state = submission.update_params(
            workload,
            params,
            None,
            model_state,
            point,
            {'inputs': inputs, 'targets': np.arange(8) % 3},
            workload.loss_type,
            state,
            [],
            step,
            jax.random.PRNGKey(step),
        )
    assert not np.array_equal(params['kernel'], before)
    assert int(state[0].kfac.counters['inverse_updates']) == 2
    print('\n'.join(sorted(sys.modules)))


if __name__ == '__main__':
    main()
