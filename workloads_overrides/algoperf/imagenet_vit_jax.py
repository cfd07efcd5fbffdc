"""What the variants of AlgoPerf's imagenet_vit need besides in JAX."""

from types import ModuleType

from algoperf.workloads.imagenet_vit.imagenet_jax import workload as stock

from workloads_overrides.algoperf import imagenet_vit
from workloads_overrides.algoperf.data_sizes import tfds_size

_DATA_SET = 'imagenet2012:5.1.0'


class CpuImagenetVit(imagenet_vit.CpuImagenetVit):
    """AlgoPerf's model on whatever data there is."""

    def _training_sizes(self, data_dir: str) -> dict[str, int]:
        return {
            split: tfds_size(_DATA_SET, split, data_dir)
            for split in ('train', 'validation')
        }


class SmallImagenetVit(imagenet_vit.SmallModel, CpuImagenetVit):
    """A small model."""

    @property
    def _stock_module(self) -> ModuleType:
        module: ModuleType = stock
        return module
