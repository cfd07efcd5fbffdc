"""What the variants of AlgoPerf's imagenet_vit need besides in PyTorch."""

import pathlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from algoperf import data_utils
from algoperf.pytorch_utils import pytorch_setup
from algoperf.workloads.imagenet_vit.imagenet_pytorch import workload as stock

from workloads_overrides.algoperf import imagenet_vit
from workloads_overrides.algoperf.data_sizes import folder_size
from workloads_overrides.algoperf.replacing import replaced

_, _, _, _NUM_GPUS = pytorch_setup()


class _PlainLoader:
    """Stands in for AlgoPerf's prefetching, which needs streams of a GPU."""

    def __init__(
        self, dataloader: torch.utils.data.DataLoader[Any], device: torch.device
    ) -> None:
        self._dataloader = dataloader
        self._device = device

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for inputs, targets in self._dataloader:
            yield (
                inputs.to(self._device, dtype=torch.float),
                targets.to(self._device),
            )


class CpuImagenetVit(imagenet_vit.CpuImagenetVit):
    """AlgoPerf's model, on a machine with or without a GPU."""

    def _training_sizes(self, data_dir: str) -> dict[str, int]:
        folder = pathlib.Path(data_dir)
        return {
            'train': folder_size(folder / 'train'),
            'validation': folder_size(folder / 'val'),
        }

    def _build_dataset(
        self,
        data_rng: Any,
        split: str,
        data_dir: str,
        global_batch_size: int,
        *args: Any,
    ) -> Iterator[dict[str, torch.Tensor]]:
        parent: Any = super()
        if split == 'train' and self.num_train_examples < global_batch_size:
            # The loader drops incomplete batches and would have none to give.
            raise ValueError(
                f'{data_dir}/train holds {self.num_train_examples} images, fewer than '
                f'a batch of {global_batch_size}; write more, or lower the batch size '
                'of the submission.'
            )
        wrapper = data_utils.PrefetchedWrapper if _NUM_GPUS else _PlainLoader
        with replaced(data_utils, 'PrefetchedWrapper', wrapper):
            batches: Iterator[dict[str, torch.Tensor]] = parent._build_dataset(
                data_rng, split, data_dir, global_batch_size, *args
            )
        return batches


class SmallImagenetVit(imagenet_vit.SmallModel, CpuImagenetVit):
    """A small model, on a machine with or without a GPU."""

    @property
    def _stock_module(self) -> ModuleType:
        module: ModuleType = stock
        return module
