"""What the workload is, independent of the framework that trains it."""

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from workloads_overrides import spec
from workloads_overrides.imagenet_vit_fashion_mnist import dataset
from workloads_overrides.imagenet_vit_fashion_mnist.image_batches import (
    EvalBatches,
    TrainBatches,
)

# Accuracies to reach, set by `python -m experiments.set_targets`.
VALIDATION_TARGET = 0.8
TEST_TARGET = 0.82


@dataclasses.dataclass(frozen=True)
class ModelSize:
    """The sizes of a vision transformer.

    Attributes:
        width: Size of a token.
        depth: Number of blocks.
        mlp_dim: Size of the hidden layer of each block's MLP.
        num_heads: Number of attention heads.
        patch_size: Height and width of a patch in pixels.
    """

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    patch_size: int


# Patches of 4 cut an image into 49 tokens.
CPU_SIZE = ModelSize(width=48, depth=3, mlp_dim=192, num_heads=3, patch_size=4)
WIDE_SIZE = ModelSize(width=192, depth=6, mlp_dim=768, num_heads=3, patch_size=4)
S_SIZE = ModelSize(width=384, depth=12, mlp_dim=1536, num_heads=6, patch_size=4)


class BaseImagenetVitFashionMnistWorkload(spec.Workload):
    """Classifies the ten kinds of garment of Fashion-MNIST.

    The numbers of examples are those of the committed subset until data has been
    loaded, and those of the loaded data from then on.
    """

    target_metric_name = 'accuracy'
    validation_target_value = VALIDATION_TARGET
    test_target_value = TEST_TARGET
    loss_type = spec.LossType.SOFTMAX_CROSS_ENTROPY
    num_train_examples = 10_000
    num_eval_train_examples = 2_000
    num_validation_examples = 2_000
    num_test_examples = 1_500
    eval_batch_size = 500
    max_allowed_runtime_sec = 1800
    eval_period_time_sec = 10
    step_hint = 1000

    train_mean = dataset.TRAIN_MEAN
    train_stddev = dataset.TRAIN_STDDEV

    def __init__(self) -> None:
        super().__init__()
        self._loaded: dict[str, dataset.Images] | None = None
        self._loaded_from: str | None = None

    @property
    def model_size(self) -> ModelSize:
        """Sizes of the model that `init_model_fn` builds."""
        return CPU_SIZE

    @property
    def use_glu(self) -> bool:
        """Whether the MLPs of the blocks are gated."""
        return False

    def _architecture(self) -> dict[str, Any]:
        """Returns the arguments of the model that do not depend on the data."""
        return {**dataclasses.asdict(self.model_size), 'use_glu': self.use_glu}

    def is_output_params(self, param_key: str) -> bool:
        """Whether a parameter belongs to the layer that returns the logits."""
        return param_key in ('head.weight', 'head.bias')

    @classmethod
    def check_data(cls, data_dir: str | None) -> None:
        """Raises an error if the data cannot be loaded; see `dataset.load`."""
        dataset.load(data_dir)

    def load_data(self, data_dir: str | None) -> dict[str, dataset.Images]:
        """Loads the data once and sets the numbers of examples to match.

        Args:
            data_dir: Folder that may hold the full set; see `dataset.load`.

        Returns:
            Split name to its images; `eval_train` is the start of `train`.
        """
        if self._loaded is None or self._loaded_from != data_dir:
            splits = dataset.load(data_dir)
            # Always the same images, so a resumed run measures what it did before.
            splits['eval_train'] = dataset.Images(
                *(field[: self.num_eval_train_examples] for field in splits['train'])
            )
            self._loaded, self._loaded_from = splits, data_dir
            self.num_train_examples = len(splits['train'].labels)
            self.num_validation_examples = len(splits['validation'].labels)
            self.num_test_examples = len(splits['test'].labels)
        return self._loaded

    def eval_model(
        self,
        global_batch_size: int,
        params: Any,
        model_state: Any,
        rng: spec.RandomState,
        data_dir: str | None,
        imagenet_v2_data_dir: str | None,
        global_step: int,
    ) -> dict[str, float]:
        """Evaluates on a training subset, the validation and the test split."""
        # The numbers of examples are read before the first split is evaluated.
        self.load_data(data_dir)
        return super().eval_model(
            global_batch_size,
            params,
            model_state,
            rng,
            data_dir,
            imagenet_v2_data_dir,
            global_step,
        )

    def _eval_model_on_split(
        self,
        split: str,
        num_examples: int,
        global_batch_size: int,
        params: Any,
        model_state: Any,
        rng: spec.RandomState,
        data_dir: str | None,
        global_step: int = 0,
    ) -> dict[str, float]:
        """Returns the mean `accuracy` and `loss` over the examples of a split."""
        del model_state, global_step
        batch_size = self._evaluation_batch_size(global_batch_size)
        num_batches = math.ceil(num_examples / batch_size)
        # Costs nothing to build, and a new one starts at the first example.
        batches: Any = self._build_input_queue(
            rng, split, data_dir, batch_size, num_batches=num_batches
        )
        totals: Any = sum(
            self._evaluated(params, next(batches), rng) for _ in range(num_batches)
        )
        correct, summed_loss, count = totals.tolist()
        return {'accuracy': correct / count, 'loss': summed_loss / count}

    def _evaluation_batch_size(self, global_batch_size: int) -> int:
        """Returns the size of the batches to evaluate instead of one asked for."""
        return global_batch_size

    @abc.abstractmethod
    def _evaluated(self, params: Any, batch: spec.Batch, rng: spec.RandomState) -> Any:
        """Returns the number of correct answers, the summed loss and the count.

        Together in one array, which may stay on its device.
        """

    def build_numpy_queue(
        self,
        data_rng: Sequence[int],
        split: str,
        data_dir: str | None,
        global_batch_size: int,
        num_batches: int | None = None,
        channels_last: bool = False,
    ) -> TrainBatches | EvalBatches:
        """Returns the batches of a split as numpy arrays.

        Args:
            data_rng: Key of the training order and augmentation.
            split: `train`, `eval_train`, `validation` or `test`.
            data_dir: Folder that may hold the full set.
            global_batch_size: Images per batch.
            num_batches: Length of an evaluation pass; None covers the split.
            channels_last: Whether inputs are `[B, 28, 28, 1]`, not `[B, 1, 28, 28]`.
        """
        splits = self.load_data(data_dir)
        if split not in splits:
            raise ValueError(
                f"There is no split '{split}'; use one of {', '.join(splits)}."
            )
        if split == 'train':
            return TrainBatches(
                splits[split], global_batch_size, data_rng, channels_last
            )
        return EvalBatches(splits[split], global_batch_size, num_batches, channels_last)


class Glu(BaseImagenetVitFashionMnistWorkload):
    """Gated MLPs, as AlgoPerf's imagenet_vit_glu has them."""

    validation_target_value = 0.838
    test_target_value = 0.834

    @property
    def use_glu(self) -> bool:
        """Whether the MLPs of the blocks are gated."""
        return True
