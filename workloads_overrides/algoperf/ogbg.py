"""What the variants of AlgoPerf's ogbg have in common in both frameworks.

The classes here come before a class of AlgoPerf in the bases of a variant.
"""

import math
from typing import Any

from algoperf.workloads.ogbg import input_pipeline

from workloads_overrides.algoperf.data_sizes import tfds_size
from workloads_overrides.algoperf.sizes_on_disk import SizesOnDisk
from workloads_overrides.algoperf.unreachable_targets import UnreachableTargets

_DATA_SET = 'ogbg_molpcba:0.1.3'
_EVAL_BATCH_SIZE = 256
_SHRINK = 8
_SMALL_STEPS = 2
_SMALL_STEP_HINT = 1000


class CpuOgbg(UnreachableTargets, SizesOnDisk):
    """AlgoPerf's model on whatever data there is, evaluated in small batches.

    AlgoPerf pads an evaluation batch to 32,768 graphs of average size, which is too
    much for a laptop.
    """

    _num_batches: dict[str, int]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._num_batches = {}

    @property
    def eval_batch_size(self) -> int:
        """Average-sized graphs that fit in an evaluation batch."""
        return _EVAL_BATCH_SIZE

    @property
    def num_eval_train_examples(self) -> int:
        """Training graphs that are evaluated."""
        return min(self._size('train'), self._size('validation'))

    def _build_input_queue(
        self, data_rng: Any, split: str, data_dir: str, global_batch_size: int
    ) -> Any:
        """Returns AlgoPerf's batches, the sizes of the splits being known then."""
        if not self._sizes:
            self._sizes = {
                name: tfds_size(_DATA_SET, name, data_dir)
                for name in ('train', 'validation', 'test')
            }
        queue: Any = super()
        return queue._build_input_queue(data_rng, split, data_dir, global_batch_size)

    def _eval_model_on_split(
        self,
        split: str,
        num_examples: int,
        global_batch_size: int,
        params: Any,
        model_state: Any,
        rng: Any,
        data_dir: str,
        global_step: int = 0,
    ) -> dict[str, float]:
        """Evaluates every graph of a split once.

        Molecules larger than those of ogbg-molpcba fill a batch sooner, so AlgoPerf's
        count of batches would leave a part of the split for the next evaluation.
        """
        parent: Any = super()
        return parent._eval_model_on_split(
            split,
            self._batches_per_pass(split, num_examples, global_batch_size, data_dir)
            * global_batch_size,
            global_batch_size,
            params,
            model_state,
            rng,
            data_dir,
            global_step,
        )

    def _batches_per_pass(
        self, split: str, num_examples: int, global_batch_size: int, data_dir: str
    ) -> int:
        if split == 'eval_train':
            # Shuffled and endless: there is no pass to end.
            return math.ceil(num_examples / global_batch_size)
        if split not in self._num_batches:
            one_pass = input_pipeline.get_dataset_iter(
                split, None, data_dir, global_batch_size
            )
            self._num_batches[split] = sum(1 for _ in one_pass)
        return self._num_batches[split]


class SmallOgbg(CpuOgbg):
    """The same with a model that takes milliseconds a step."""

    @property
    def hidden_dims(self) -> tuple[int, ...]:
        """Widths of the layers of every update function."""
        parent: Any = super()
        return tuple(dim // _SHRINK for dim in parent.hidden_dims)

    @property
    def latent_dim(self) -> int:
        """Width of the embedded nodes and edges."""
        parent: Any = super()
        width: int = parent.latent_dim // _SHRINK
        return width

    @property
    def num_message_passing_steps(self) -> int:
        """Number of graph network layers."""
        return _SMALL_STEPS

    @property
    def step_hint(self) -> int:
        """Steps that a run is expected to take."""
        return _SMALL_STEP_HINT
