"""What the variants of AlgoPerf's ogbg need besides in PyTorch."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import torch
from algoperf.pytorch_utils import pytorch_setup
from algoperf.workloads.ogbg import input_pipeline

from workloads_overrides.algoperf import ogbg

_, _, _DEVICE, _NUM_GPUS = pytorch_setup()


def _to_torch(batch: dict[str, Any]) -> dict[str, Any]:
    """Returns numpy graphs, targets and weights as tensors on the device."""
    return {
        'inputs': jax.tree.map(
            lambda array: torch.as_tensor(array, device=_DEVICE), batch['inputs']
        ),
        'targets': torch.as_tensor(batch['targets'], device=_DEVICE),
        'weights': torch.as_tensor(batch['weights'], dtype=torch.bool, device=_DEVICE),
    }


class _QueueWithoutGpu:
    """AlgoPerf's queue divides by the number of GPUs; this one does without."""

    def _build_input_queue(
        self, data_rng: Any, split: str, data_dir: str, global_batch_size: int
    ) -> Iterator[dict[str, Any]]:
        if _NUM_GPUS:
            queue: Any = super()
            batches: Iterator[dict[str, Any]] = queue._build_input_queue(
                data_rng, split, data_dir, global_batch_size
            )
            return batches
        numpy_batches = input_pipeline.get_dataset_iter(
            split, np.asarray(data_rng).astype('uint32'), data_dir, global_batch_size
        )
        if split != 'train':
            numpy_batches = itertools.cycle(numpy_batches)
        return map(_to_torch, numpy_batches)


class CpuOgbg(ogbg.CpuOgbg, _QueueWithoutGpu):
    """AlgoPerf's model, on a machine with or without a GPU."""


class SmallOgbg(ogbg.SmallOgbg, _QueueWithoutGpu):
    """A small model, on a machine with or without a GPU."""
