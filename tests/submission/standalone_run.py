"""Two training steps with a copy of the submission and nothing else around.

Called as `python standalone_run.py FOLDER PACKAGE`: FOLDER holds the copy under the
dotted name PACKAGE. Prints the names of all modules imported on the way.
"""

import collections
import enum
import importlib
import sys

import torch


class _Forbidden:
    """Refuses to find what the submission must not import."""

    NAMES = ('algoperf', 'workloads_overrides', 'experiments', 'submission', 'tests')

    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in self.NAMES:
            raise ImportError(f'{name} must not be imported')


class LossType(enum.Enum):
    SOFTMAX_CROSS_ENTROPY = 0


class ForwardPassMode(enum.Enum):
    TRAIN = 0


class Workload:
    """As little of the contract as the submission uses."""

    loss_type = LossType.SOFTMAX_CROSS_ENTROPY
    step_hint = 100
    metrics_logger = None

    def model_fn(self, params, augmented_and_preprocessed_input_batch, **kwargs):
        assert kwargs['mode'] is ForwardPassMode.TRAIN
        return params(augmented_and_preprocessed_input_batch['inputs']), None

    def loss_fn(self, label_batch, logits_batch, mask_batch=None, label_smoothing=0.0):
        losses = torch.nn.functional.cross_entropy(
            logits_batch, label_batch, reduction='none'
        )
        return {'summed': losses.sum(), 'n_valid_examples': len(losses)}


def main():
    sys.meta_path.insert(0, _Forbidden())
    sys.path.insert(0, sys.argv[1])
    submission = importlib.import_module(f'{sys.argv[2]}.pytorch_submission')
    torch.manual_seed(0)
    workload, model = Workload(), torch.nn.Linear(5, 3)
    point = {
        'learning_rate': 0.1,
        'one_minus_beta1': 0.1,
        'beta2': 0.9,
        'weight_decay': 0.0,
        'warmup_factor': 0.0,
    }
    point = collections.namedtuple('Hyperparameters', point)(**point)
    before = model.weight.detach().clone()
    state = submission.init_optimizer_state(workload, model, None, point, (0, 1))
    for step in range(2):
        batch = {'inputs': torch.randn(8, 5), 'targets': torch.arange(8) % 3}
        state, model, _ = submission.update_params(
            workload,
            model,
            None,
            None,
            point,
            batch,
            workload.loss_type,
            state,
            [],
            step,
            (0, step),
        )
    assert not torch.equal(model.weight, before)
    assert state['preconditioner'].counters['inverse_updates'] == 2
    print('\n'.join(sorted(sys.modules)))


if __name__ == '__main__':
    main()
