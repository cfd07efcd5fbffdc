"""The workload in PyTorch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from workloads_overrides import random_utils, spec
from workloads_overrides.ogbg_chembl.graph_batches import (
    EvaluationQueue,
    GraphsTuple,
    TrainingQueue,
)
from workloads_overrides.ogbg_chembl.pytorch_model import GraphNetwork
from workloads_overrides.ogbg_chembl.workload import (
    DROPOUT_RATE,
    BaseOgbgChemblWorkload,
    EvaluatedBatch,
    FullSize,
    Gelu,
)
from workloads_overrides.pytorch_workload import PyTorchWorkload


def _parameter_type(name: str) -> spec.ParameterType:
    is_bias = name.endswith('bias')
    if 'norm_' in name:
        if is_bias:
            return spec.ParameterType.LAYER_NORM_BIAS
        return spec.ParameterType.LAYER_NORM_SCALE
    return spec.ParameterType.BIAS if is_bias else spec.ParameterType.WEIGHT


class TorchQueue(Iterator[dict[str, Any]]):
    """Turns the arrays of a queue into tensors on a device."""

    def __init__(
        self, queue: TrainingQueue | EvaluationQueue, device: torch.device
    ) -> None:
        self.queue = queue
        self._device = device

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._device)

    def __next__(self) -> dict[str, Any]:
        batch = next(self.queue)
        graph = batch['inputs']
        return {
            'inputs': GraphsTuple(
                *(None if field is None else self._tensor(field) for field in graph)
            ),
            'targets': self._tensor(batch['targets']),
            'weights': self._tensor(batch['weights']).bool(),
        }

    def skip(self, num_batches: int) -> None:
        """Passes over batches without building them."""
        self.queue.skip(num_batches)


class OgbgChemblWorkload(PyTorchWorkload, BaseOgbgChemblWorkload):
    """The default size, for a CPU."""

    default_dropout_rate = DROPOUT_RATE

    def _build_input_queue(
        self,
        data_rng: spec.RandomState,
        split: str,
        data_dir: str | None,
        global_batch_size: int,
        cache: bool | None = None,
        repeat_final_dataset: bool | None = None,
        num_batches: int | None = None,
    ) -> TorchQueue:
        """Returns batches of tensors: 'inputs', 'targets' and 'weights'."""
        # The data is in memory already and every queue is endless.
        del cache, repeat_final_dataset, num_batches
        queue = self._graph_queue(data_rng, split, data_dir, global_batch_size)
        return TorchQueue(queue, self._device)

    def init_model_fn(self, rng: spec.RandomState) -> tuple[nn.Module, None]:
        """Returns a new model; the same key gives the same parameters."""

        def make_model() -> nn.Module:
            return GraphNetwork(
                num_outputs=self.num_outputs,
                latent_dim=self.latent_dim,
                hidden_dims=self.hidden_dims,
                num_message_passing_steps=self.num_message_passing_steps,
                activation_fn_name=self.activation_fn_name,
            )

        return self._initialised(rng, make_model, _parameter_type)

    def loss_fn(
        self,
        label_batch: torch.Tensor,
        logits_batch: torch.Tensor,
        mask_batch: torch.Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> dict[str, torch.Tensor]:
        """Returns the sigmoid cross entropy of the labels that exist.

        Args:
            label_batch: 0 or 1, anything where the mask is false, `[n, n_tasks]`.
            logits_batch: `[n, n_tasks]`.
            mask_batch: where there is a label, `[n, n_tasks]`; None for everywhere.
            label_smoothing: weight of the uniform distribution over the tasks,
                AlgoPerf's rule for this workload: labels move towards
                1 / n_tasks, although each task is a binary choice.

        Returns:
            'summed', a scalar; 'n_valid_examples', the number of labels, a scalar;
            'per_example', `[n, n_tasks]`, 0 where there is no label.
        """
        if mask_batch is None:
            mask_batch = torch.ones_like(label_batch)
        if not label_batch.shape == logits_batch.shape == mask_batch.shape:
            raise ValueError(
                f'Labels {tuple(label_batch.shape)}, logits '
                f'{tuple(logits_batch.shape)} and mask {tuple(mask_batch.shape)} '
                'must have the same shape.'
            )
        mask = mask_batch.bool()
        labels = torch.where(mask, label_batch, 0).to(logits_batch.dtype)
        num_tasks = labels.shape[-1]
        labels = (1 - label_smoothing) * labels + label_smoothing / num_tasks
        losses = F.binary_cross_entropy_with_logits(
            logits_batch, labels, reduction='none'
        )
        losses = torch.where(mask, losses, 0)
        return {
            'summed': losses.sum(),
            'n_valid_examples': mask.sum(),
            'per_example': losses,
        }

    def _evaluated(
        self, params: nn.Module, batch: spec.Batch, rng: spec.RandomState
    ) -> EvaluatedBatch:
        logits, _ = self.model_fn(
            params,
            batch,
            None,
            spec.ForwardPassMode.EVAL,
            random_utils.split(rng)[1],
            update_batch_norm=False,
        )
        loss = self.loss_fn(batch['targets'], logits, batch['weights'])
        return EvaluatedBatch(
            logits.cpu().numpy(),
            batch['targets'].cpu().numpy(),
            batch['weights'].cpu().numpy(),
            loss['summed'].item(),
        )


class OgbgChemblFullWorkload(FullSize, OgbgChemblWorkload):
    """`ogbg_chembl_full`: the size of AlgoPerf's ogbg model, for a GPU."""


class OgbgChemblGeluWorkload(Gelu, OgbgChemblWorkload):
    """`ogbg_chembl_gelu`: the default size with another activation."""
