"""The part of AlgoPerf's workload contract that the offline workloads need.

AlgoPerf hands a submission a workload object with these methods and properties
(its module `algoperf.spec`). The offline workloads follow the same contract, so
one submission trains both, and the same workload runs under either training
loop. The names of the enum members are AlgoPerf's, since a submission may look
at them.
"""

import abc
import dataclasses
import enum
from collections.abc import Iterator, Mapping
from typing import Any

Batch = Mapping[str, Any]
RandomState = Any


class LossType(enum.Enum):
    """What a workload says of its loss."""

    SOFTMAX_CROSS_ENTROPY = 0
    SIGMOID_CROSS_ENTROPY = 1
    MEAN_SQUARED_ERROR = 2
    CTC_LOSS = 3
    MEAN_ABSOLUTE_ERROR = 4


class ForwardPassMode(enum.Enum):
    """Whether a forward pass trains (dropout, batch statistics) or evaluates."""

    TRAIN = 0
    EVAL = 1


class ParameterType(enum.Enum):
    """The kinds of parameter that occur in the offline workloads."""

    WEIGHT = 0
    BIAS = 1
    CONV_WEIGHT = 2
    LAYER_NORM_SCALE = 5
    LAYER_NORM_BIAS = 6
    ATTENTION_Q = 8
    ATTENTION_K = 9
    ATTENTION_V = 10
    ATTENTION_OUT = 11
    ATTENTION_BIAS = 14


@dataclasses.dataclass(frozen=True)
class ShapeTuple:
    """A shape as one leaf of a tree, where a bare tuple would be a branch."""

    shape_tuple: tuple[int, ...]


class TrainingCompleteError(Exception):
    """Raised by a submission that wants its run to end with a last evaluation."""


class Workload(abc.ABC):
    """A data set, a model, a loss and the targets that training has to reach."""

    target_metric_name: str
    validation_target_value: float
    test_target_value: float
    loss_type: LossType
    num_train_examples: int
    num_eval_train_examples: int
    # Of the training set a subset.
    evaluated_splits: tuple[str, ...] = ('train', 'validation', 'test')
    num_validation_examples: int
    num_test_examples: int
    eval_batch_size: int
    max_allowed_runtime_sec: int
    eval_period_time_sec: int
    step_hint: int

    def __init__(self) -> None:
        self._param_shapes: Mapping[str, Any] | None = None
        self._param_types: Mapping[str, Any] | None = None
        self._eval_iters: dict[str, Iterator[Batch]] = {}
        self.metrics_logger: Any = None

    def attach_metrics_logger(self, metrics_logger: Any) -> None:
        """Gives submissions a logger for their own scalars."""
        self.metrics_logger = metrics_logger

    @property
    def param_shapes(self) -> Mapping[str, Any]:
        """Parameter name to shape; known once the model has been initialised.

        PyTorch: a tuple under each dotted name. JAX: a `ShapeTuple` at each leaf.
        """
        if self._param_shapes is None:
            raise ValueError('param_shapes: call init_model_fn() first.')
        return self._param_shapes

    @property
    def model_params_types(self) -> Mapping[str, Any]:
        """Parameter name to `ParameterType`; known once the model exists."""
        if self._param_types is None:
            raise ValueError('model_params_types: call init_model_fn() first.')
        return self._param_types

    def has_reached_validation_target(self, eval_result: Mapping[str, float]) -> bool:
        """Whether the validation metric is above its target."""
        return self._is_above(eval_result, 'validation', self.validation_target_value)

    def has_reached_test_target(self, eval_result: Mapping[str, float]) -> bool:
        """Whether the test metric is above its target."""
        return self._is_above(eval_result, 'test', self.test_target_value)

    def _is_above(
        self, eval_result: Mapping[str, float], split: str, target: float
    ) -> bool:
        value = eval_result.get(f'{split}/{self.target_metric_name}')
        # None: the split was not evaluated.
        return value is not None and value > target

    @classmethod
    def check_data(cls, data_dir: str | None) -> None:
        """Raises an error if the data cannot be loaded; by default nothing is wrong.

        A runner calls it before it makes or deletes any folder.

        Args:
            data_dir: Folder of the data set; None for the committed data.

        Raises:
            OSError: If a folder or a file is missing.
            ValueError: If a file is damaged.
        """
        del data_dir

    @abc.abstractmethod
    def is_output_params(self, param_key: str) -> bool:
        """Whether a parameter belongs to the output layer."""

    @abc.abstractmethod
    def _build_input_queue(
        self,
        data_rng: RandomState,
        split: str,
        data_dir: str | None,
        global_batch_size: int,
        cache: bool | None = None,
        repeat_final_dataset: bool | None = None,
        num_batches: int | None = None,
    ) -> Iterator[Batch]:
        """Returns an iterator over the batches of a split.

        The training queue is endless and has a method `skip(n)` that passes over
        `n` batches without building them, which makes resuming exact and cheap.
        """

    @abc.abstractmethod
    def init_model_fn(self, rng: RandomState) -> tuple[Any, Any]:
        """Returns freshly initialised `(parameters, model_state)`."""

    @abc.abstractmethod
    def model_fn(
        self,
        params: Any,
        augmented_and_preprocessed_input_batch: Batch,
        model_state: Any,
        mode: ForwardPassMode,
        rng: RandomState,
        update_batch_norm: bool,
        dropout_rate: float = 0.0,
    ) -> tuple[Any, Any]:
        """Returns `(logits, model_state)`."""

    @abc.abstractmethod
    def loss_fn(
        self,
        label_batch: Any,
        logits_batch: Any,
        mask_batch: Any = None,
        label_smoothing: float = 0.0,
    ) -> dict[str, Any]:
        """Returns the loss as `summed`, `n_valid_examples` and `per_example`."""

    @abc.abstractmethod
    def _eval_model_on_split(
        self,
        split: str,
        num_examples: int,
        global_batch_size: int,
        params: Any,
        model_state: Any,
        rng: RandomState,
        data_dir: str | None,
        global_step: int = 0,
    ) -> dict[str, float]:
        """Returns the metrics of one split (`eval_train`, `validation`, `test`)."""

    def eval_model(
        self,
        global_batch_size: int,
        params: Any,
        model_state: Any,
        rng: RandomState,
        data_dir: str | None,
        imagenet_v2_data_dir: str | None,
        global_step: int,
    ) -> dict[str, float]:
        """Evaluates the splits to evaluate, by default all."""
        del imagenet_v2_data_dir
        results: dict[str, float] = {}
        for prefix, split, num_examples in (
            ('train', 'eval_train', self.num_eval_train_examples),
            ('validation', 'validation', self.num_validation_examples),
            ('test', 'test', self.num_test_examples),
        ):
            if prefix not in self.evaluated_splits:
                continue
            metrics = self._eval_model_on_split(
                split,
                num_examples,
                global_batch_size,
                params,
                model_state,
                rng,
                data_dir,
                global_step,
            )
            results.update({f'{prefix}/{name}': metrics[name] for name in metrics})
            if prefix != 'train':
                results[f'{prefix}/num_examples'] = num_examples
        return results
