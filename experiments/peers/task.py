"""What every method trains: a model, its data, and the loss that is checked."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import torch

from submission.harness import training_mode
from submission.likelihood import Likelihood, likelihood_of
from workloads_overrides.runner import frameworks
from workloads_overrides.runner.frameworks import Framework


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A workload with a batch size and a seed, the same for all methods.

    Attributes:
      workload: The workload.
      framework_name: `'pytorch'` or `'jax'`.
      batch_size: Examples in a batch.
    """

    workload: Any
    framework_name: str
    batch_size: int

    @functools.cached_property
    def framework(self) -> Framework:
        """What the runner knows of the framework."""
        return frameworks.load(self.framework_name)

    @property
    def key(self) -> Any:
        """Key of parameters and data."""
        return self.framework.prng_key(0)

    def params(self) -> Any:
        """Returns new parameters (in PyTorch a model), the same every time."""
        return self.workload.init_model_fn(self.key)[0]

    def queue(self) -> Iterator[Any]:
        """Returns training batches, the same every time."""
        queue: Iterator[Any] = self.workload._build_input_queue(
            self.key, 'train', None, self.batch_size
        )
        return queue

    @functools.cached_property
    def probe(self) -> Any:
        """The batch whose loss says whether a method trains."""
        return next(self.queue())

    @property
    def has_many_labels(self) -> bool:
        """Whether an example has several binary labels rather than one class."""
        # Where there are several, targets have the shape of the outputs.
        targets = self.probe['targets']
        likelihood = likelihood_of(self.workload.loss_type.name, targets, self.probe)
        return likelihood is Likelihood.BERNOULLI

    @property
    def has_graphs(self) -> bool:
        """Whether examples are graphs, whose nodes and edges come concatenated."""
        return hasattr(self.probe['inputs'], 'n_node')

    @property
    def approximations_by_first_axis(self) -> list[str]:
        """Approximations for peers that take the first axis of an input for examples.

        The rows of a graph network's layers are nodes and edges, so reduce would not
        sum over those of a graph.
        """
        return ['expand'] if self.has_graphs else ['expand', 'reduce']

    def outputs(self, params: Any, batch: Any) -> Any:
        """Returns the model's outputs in training mode, without dropout."""
        return self.workload.model_fn(
            params=params,
            augmented_and_preprocessed_input_batch=batch,
            model_state=None,
            mode=training_mode(self.workload),
            rng=self.key,
            update_batch_norm=True,
            dropout_rate=0.0,
        )[0]

    def loss(self, outputs: Any, batch: Any) -> tuple[Any, Any]:
        """Returns the summed loss and the number of terms to average over."""
        loss = self.workload.loss_fn(
            label_batch=batch['targets'],
            logits_batch=outputs,
            mask_batch=batch.get('weights'),
        )
        return loss['summed'], loss['n_valid_examples']

    def mean_loss(self, params: Any, batch: Any) -> Any:
        """Returns the training loss, which autodiff differentiates."""
        summed, terms = self.loss(self.outputs(params, batch), batch)
        return summed / terms

    def probe_loss(self, params: Any) -> float:
        """Returns the loss on the probe."""
        if self.framework_name == 'jax':
            return float(self._compiled_loss(params, self.probe))
        with torch.no_grad():
            return float(self.mean_loss(params, self.probe))

    @functools.cached_property
    def _compiled_loss(self) -> Any:
        return jax.jit(self.mean_loss)
