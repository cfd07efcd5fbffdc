"""What the variants of AlgoPerf's imagenet_vit have in common in both frameworks.

The classes here come before a class of AlgoPerf in the bases of a variant.
"""

import abc
from types import ModuleType
from typing import Any

from workloads_overrides.algoperf.data_sizes import tfds_size
from workloads_overrides.algoperf.replacing import replaced
from workloads_overrides.algoperf.sizes_on_disk import SizesOnDisk
from workloads_overrides.algoperf.unreachable_targets import UnreachableTargets

_TEST_DATA_SET = 'imagenet_v2/matched-frequency:3.0.0'
_EVAL_BATCH_SIZE = 50
_SMALL_MODEL = {
    'width': 48,
    'depth': 2,
    'mlp_dim': 96,
    'num_heads': 3,
    'patch_size': (8, 8),
}
_SMALL_CROP, _SMALL_RESIZE = 32, 36
_SMALL_STEP_HINT = 1000


class CpuImagenetVit(UnreachableTargets, SizesOnDisk, abc.ABC):
    """AlgoPerf's model on whatever data there is, evaluated in small batches."""

    @abc.abstractmethod
    def _training_sizes(self, data_dir: str) -> dict[str, int]:
        """Returns the sizes of the splits `train` and `validation`."""

    @property
    def eval_batch_size(self) -> int:
        """Images in an evaluation batch."""
        return _EVAL_BATCH_SIZE

    @property
    def num_eval_train_examples(self) -> int:
        """Training images that are evaluated: full batches, as AlgoPerf needs."""
        available = min(self._size('train'), self._size('validation'))
        return max(available // self.eval_batch_size, 1) * self.eval_batch_size

    def _build_input_queue(
        self,
        data_rng: Any,
        split: str,
        data_dir: str,
        global_batch_size: int,
        cache: bool | None = None,
        repeat_final_dataset: bool | None = None,
        num_batches: int | None = None,
    ) -> Any:
        """Returns AlgoPerf's batches, the sizes of the splits being known then."""
        if split != 'test':
            self._sizes.update(self._training_sizes(data_dir))
        queue: Any = super()
        return queue._build_input_queue(
            data_rng,
            split,
            data_dir,
            global_batch_size,
            cache,
            repeat_final_dataset,
            num_batches,
        )

    def eval_model(
        self,
        global_batch_size: int,
        params: Any,
        model_state: Any,
        rng: Any,
        data_dir: str,
        imagenet_v2_data_dir: str | None,
        global_step: int,
    ) -> dict[str, float]:
        """Evaluates on a training subset, the validation and the test split."""
        self._sizes.update(self._training_sizes(data_dir))
        self._sizes['test'] = tfds_size(
            _TEST_DATA_SET, 'test', imagenet_v2_data_dir or data_dir
        )
        parent: Any = super()
        metrics: dict[str, float] = parent.eval_model(
            global_batch_size,
            params,
            model_state,
            rng,
            data_dir,
            imagenet_v2_data_dir,
            global_step,
        )
        return metrics


class SmallModel(abc.ABC):
    """A model that takes milliseconds an image, on images of 32 x 32 pixels."""

    @property
    @abc.abstractmethod
    def _stock_module(self) -> ModuleType:
        """The module of AlgoPerf's class, which looks the model's sizes up."""

    @property
    def center_crop_size(self) -> int:
        """Height and width of the images that the model gets."""
        return _SMALL_CROP

    @property
    def resize_size(self) -> int:
        """Height and width of the images before they are cropped."""
        return _SMALL_RESIZE

    @property
    def step_hint(self) -> int:
        """Steps that a run is expected to take."""
        return _SMALL_STEP_HINT

    def init_model_fn(self, rng: Any) -> tuple[Any, Any]:
        """Returns freshly initialised `(parameters, model_state)`."""
        parent: Any = super()
        with replaced(self._stock_module, 'decode_variant', _small_sizes):
            initialised: tuple[Any, Any] = parent.init_model_fn(rng)
        return initialised


def _small_sizes(variant: str) -> dict[str, Any]:
    del variant
    return _SMALL_MODEL
