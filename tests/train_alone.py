"""Two training steps with a submission and nothing else of this project around.

Called by `standalone.train` with FOLDER, MODULE and FRAMEWORK: FOLDER holds the
submission under the dotted name MODULE; a search space beside it gives the
hyperparameters. Prints the losses, how often factors were inverted, and what was
imported.
"""

import collections
import enum
import importlib
import json
import pathlib
import sys

import numpy as np

INPUTS, POSITIONS, CLASSES, EXAMPLES = 5, 3, 4, 16


class LossType(enum.Enum):
    SOFTMAX_CROSS_ENTROPY = 0


class ForwardPassMode(enum.Enum):
    TRAIN = 0


class Workload:
    """As little of AlgoPerf's contract as training takes."""

    loss_type = LossType.SOFTMAX_CROSS_ENTROPY
    step_hint = 100
    metrics_logger = None
    model_params_types = None


def batch():
    generator = np.random.RandomState(0)
    inputs = generator.randn(EXAMPLES, POSITIONS, INPUTS).astype(np.float32)
    return {'inputs': inputs, 'targets': inputs[..., :CLASSES].sum(1).argmax(-1)}


def pytorch_workload():
    import torch

    class PyTorchWorkload(Workload):
        def init_model_fn(self, rng):
            torch.manual_seed(int(rng[0]))
            hidden, head = torch.nn.Linear(INPUTS, 8), torch.nn.Linear(8, CLASSES)
            return torch.nn.ModuleList([hidden, head]), None

        def model_fn(
            self, params, augmented_and_preprocessed_input_batch, mode, **others
        ):
            assert mode is ForwardPassMode.TRAIN
            hidden, head = params
            inputs = augmented_and_preprocessed_input_batch['inputs']
            return head(torch.tanh(hidden(inputs)).mean(1)), others['model_state']

        def loss_fn(self, label_batch, logits_batch, **_):
            losses = torch.nn.functional.cross_entropy(
                logits_batch, label_batch, reduction='none'
            )
            return {'summed': losses.sum(), 'n_valid_examples': len(losses)}

    data = {name: torch.from_numpy(array) for name, array in batch().items()}
    return PyTorchWorkload(), data, [(0, step) for step in range(3)]


def jax_workload():
    import jax
    import optax
    from flax import linen as nn

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.tanh(nn.Dense(8)(x)).mean(1)
            return nn.Dense(CLASSES)(x)

    class JaxWorkload(Workload):
        def init_model_fn(self, rng):
            return Model().init(rng, batch()['inputs'])['params'], None

        def model_fn(
            self, params, augmented_and_preprocessed_input_batch, mode, **others
        ):
            assert mode is ForwardPassMode.TRAIN
            inputs = augmented_and_preprocessed_input_batch['inputs']
            return Model().apply({'params': params}, inputs), others['model_state']

        def loss_fn(self, label_batch, logits_batch, **_):
            losses = optax.softmax_cross_entropy_with_integer_labels(
                logits_batch, label_batch
            )
            return {'summed': losses.sum(), 'n_valid_examples': len(losses)}

    return JaxWorkload(), batch(), list(jax.random.split(jax.random.key(0), 3))


def main(folder, module, framework):
    sys.path.insert(0, folder)
    submission = importlib.import_module(module)
    space = pathlib.Path(submission.__file__).with_name('tuning_search_space.json')
    point = json.loads(space.read_text())[0] if space.exists() else None
    if point is not None:
        point = collections.namedtuple('Hyperparameters', point)(**point)
    make = {'pytorch': pytorch_workload, 'jax': jax_workload}[framework]
    workload, data, (key, *keys) = make()
    params, model_state = workload.init_model_fn(key)
    state = submission.init_optimizer_state(workload, params, model_state, point, key)

    def loss():
        logits, _ = workload.model_fn(
            params=params,
            augmented_and_preprocessed_input_batch=data,
            model_state=model_state,
            mode=ForwardPassMode.TRAIN,
        )
        losses = workload.loss_fn(label_batch=data['targets'], logits_batch=logits)
        return float(losses['summed']) / EXAMPLES

    losses = [loss()]
    queue = iter([data, data])
    for step, step_key in enumerate(keys):
        chosen = submission.data_selection(
            workload, queue, state, params, model_state, point, step, step_key
        )
        state, params, model_state = submission.update_params(
            workload=workload,
            current_param_container=params,
            current_params_types=None,
            model_state=model_state,
            hyperparameters=point,
            batch=chosen,
            loss_type=workload.loss_type,
            optimizer_state=state,
            eval_results=[],
            global_step=step,
            rng=step_key,
            train_state={},
        )
        state, params, model_state = submission.prepare_for_eval(
            workload=workload,
            current_param_container=params,
            current_params_types=None,
            model_state=model_state,
            hyperparameters=point,
            loss_type=workload.loss_type,
            optimizer_state=state,
            eval_results=[],
            global_step=step,
            rng=step_key,
        )
        losses.append(loss())
    kfac = state['preconditioner'] if framework == 'pytorch' else state[0].kfac
    report = {
        'losses': losses,
        'inverse_updates': int(kfac.counters['inverse_updates']),
        'modules': sorted(sys.modules),
    }
    json.dump(report, sys.stdout)


if __name__ == '__main__':
    main(*sys.argv[1:])
