"""Trains AlgoPerf's workloads in this process, on the batches of its own loaders."""

import collections
import contextlib
import importlib
import itertools

import numpy as np

from tests.workloads_overrides.algoperf.conftest import data_folder
from workloads_overrides.algoperf import registration

BASELINES = 'algorithms.baselines.external_tuning'


def submission_module(framework):
    return importlib.import_module(f'submission.{framework}_submission')


def baseline_module(framework):
    return importlib.import_module(f'{BASELINES}.{framework}_nadamw_full_budget')


def key(framework, seed):
    """Returns a random key of AlgoPerf's kind."""
    if framework == 'jax':
        import jax

        return jax.random.PRNGKey(seed)
    return np.array([seed, 7], dtype=np.int32)


def named_tuple(hyperparameters):
    return collections.namedtuple('Hyperparameters', hyperparameters)(**hyperparameters)


@contextlib.contextmanager
def double_precision(framework):
    """Lets models and their initialisation be in float64 within the block."""
    if framework == 'jax':
        import jax

        with jax.experimental.enable_x64():
            yield
        return
    import torch

    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def doubled(tree):
    """Returns arrays or tensors of float32 in a tree as float64."""
    import jax
    import torch

    def convert(leaf):
        if torch.is_tensor(leaf):
            return leaf.double() if leaf.dtype == torch.float32 else leaf
        return leaf.astype('float64') if leaf.dtype == np.float32 else leaf

    return jax.tree.map(convert, tree)


class Run:
    """A workload, a submission and the state of a training run.

    In double precision it starts from the float32 parameters of a single one.
    """

    def __init__(
        self, name, framework, module, hyperparameters, double=False, **properties
    ):
        kind = self._workload_class(name, framework)
        self.workload = type(kind.__name__, (kind,), properties)()
        self.framework, self.module, self.double = framework, module, double
        self.hyperparameters = named_tuple(hyperparameters)
        self.params, self.model_state = self.workload.init_model_fn(key(framework, 11))
        with self._precision():
            if double and framework == 'jax':
                self.params = doubled(self.params)
            elif double:
                self.params.double()
            self.optimizer_state = module.init_optimizer_state(
                self.workload,
                self.params,
                self.model_state,
                self.hyperparameters,
                key(framework, 12),
            )
        self.step = 0

    def _workload_class(self, name, framework):
        return registration.workload_class(name, framework)

    def _precision(self):
        if self.double:
            return double_precision(self.framework)
        return contextlib.nullcontext()

    def batches(self, data_dir, batch_size, count):
        """Returns the first batches of the training queue."""
        folder = data_folder(data_dir, 'ogbg', self.framework)
        queue = self.workload._build_input_queue(
            key(self.framework, 13), 'train', str(folder), batch_size
        )
        return list(itertools.islice(queue, count))

    def train(self, batches, steps):
        """Takes steps, going round the batches."""
        with self._precision():
            if self.double:
                batches = doubled(batches)
            for _ in range(steps):
                self._update(batches[self.step % len(batches)])

    def prepare_for_eval(self):
        """Asks for the parameters to evaluate, which a harness then trains on."""
        self.optimizer_state, self.params, self.model_state = (
            self.module.prepare_for_eval(
                self.workload,
                self.params,
                self.workload.model_params_types,
                self.model_state,
                self.hyperparameters,
                self.workload.loss_type,
                self.optimizer_state,
                [],
                self.step,
                key(self.framework, 1000 + self.step),
            )
        )

    def _update(self, batch):
        self.optimizer_state, self.params, self.model_state = self.module.update_params(
            self.workload,
            self.params,
            self.workload.model_params_types,
            self.model_state,
            self.hyperparameters,
            batch,
            self.workload.loss_type,
            self.optimizer_state,
            [],
            self.step,
            key(self.framework, 100 + self.step),
        )
        self.step += 1

    def parameters(self):
        """Returns the parameters by name as numpy arrays."""
        if self.framework == 'jax':
            import jax

            leaves, _ = jax.tree_util.tree_flatten_with_path(self.params)
            return {
                jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves
            }
        return {
            name: parameter.detach().numpy().copy()
            for name, parameter in self.params.named_parameters()
        }
