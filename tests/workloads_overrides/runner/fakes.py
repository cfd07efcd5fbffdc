"""A workload of a tiny network with dropout on random data, and a clock of paper."""

import numpy as np
import torch

from workloads_overrides.registry import Entry
from workloads_overrides.runner.config import StudyConfig
from workloads_overrides.spec import ForwardPassMode, LossType, Workload

_MODULE = 'tests.workloads_overrides.runner'
SUBMISSION_PATH = f'{_MODULE.replace(".", "/")}/fake_submission.py'
ENTRIES = {
    'fake': Entry('fake', {'pytorch': f'{_MODULE}.fakes:FakeWorkload'}),
    'fake_variant': Entry('fake', {'pytorch': f'{_MODULE}.fakes:FakeWorkload'}),
}


class Clock:
    """Time passes only where a test says so."""

    def __init__(self):
        self.time = 1_000.0

    def now(self):
        return self.time


class Queue:
    """Endless batches; batch number and key give the content."""

    def __init__(self, key, batch_size):
        self.key = [int(part) for part in key]
        self.batch_size = batch_size
        self.number = 0

    def __iter__(self):
        return self

    def __next__(self):
        generator = np.random.RandomState([*self.key, self.number])
        self.number += 1
        inputs = generator.randn(self.batch_size, 4).astype(np.float32)
        return {
            'inputs': torch.from_numpy(inputs),
            'targets': torch.from_numpy((inputs.sum(1) > 0).astype(np.int64)),
        }

    def skip(self, num_batches):
        self.number += num_batches


class FakeWorkload(Workload):
    target_metric_name = 'accuracy'
    validation_target_value = 2.0
    test_target_value = 2.0
    loss_type = LossType.SOFTMAX_CROSS_ENTROPY
    num_train_examples = 1000
    num_eval_train_examples = 4
    num_validation_examples = 4
    num_test_examples = 4
    eval_batch_size = 4
    max_allowed_runtime_sec = 100_000
    eval_period_time_sec = 50
    step_hint = 10

    def __init__(self):
        super().__init__()
        # What the evaluations give, in turn; the last one stays.
        self.accuracies = [0.5]
        self.clock = None
        self.eval_seconds = 0.0
        self.steps_evaluated = []
        self.eval_batch_sizes = []

    def is_output_params(self, param_key):
        return param_key.startswith('2')

    def _build_input_queue(self, data_rng, split, data_dir, global_batch_size, **_):
        assert split == 'train'
        return Queue(data_rng, global_batch_size)

    def init_model_fn(self, rng):
        torch.manual_seed(int(rng[0]))
        model = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2)
        )
        self._param_shapes = {n: p.shape for n, p in model.named_parameters()}
        self._param_types = dict.fromkeys(self._param_shapes)
        return model, None

    def model_fn(
        self,
        params,
        augmented_and_preprocessed_input_batch,
        model_state,
        mode,
        *_,
        **__,
    ):
        params.train(mode == ForwardPassMode.TRAIN)
        return params(augmented_and_preprocessed_input_batch['inputs']), model_state

    def loss_fn(self, label_batch, logits_batch, *_, **__):
        losses = torch.nn.functional.cross_entropy(
            logits_batch, label_batch, reduction='none'
        )
        return {
            'summed': losses.sum(),
            'n_valid_examples': len(losses),
            'per_example': losses,
        }

    def _eval_model_on_split(self, split, num_examples, batch_size, *_, **__):
        if self.clock is not None:
            self.clock.time += self.eval_seconds
        self.eval_batch_sizes.append(batch_size)
        number = min(len(self.steps_evaluated), len(self.accuracies)) - 1
        return {'accuracy': self.accuracies[number]}

    def eval_model(self, *arguments):
        self.steps_evaluated.append(arguments[-1])
        return super().eval_model(*arguments)


def study_config(folder, **changes):
    """Returns the configuration of a short self-tuning study."""
    settings = {
        'workload': 'fake',
        'submission_path': SUBMISSION_PATH,
        'experiment_dir': str(folder),
        'experiment_name': 'experiment',
        'tuning_ruleset': 'self',
        'max_global_steps': 12,
        'eval_every_steps': 3,
        'rng_seed': 7,
    }
    return StudyConfig(**{**settings, **changes})
