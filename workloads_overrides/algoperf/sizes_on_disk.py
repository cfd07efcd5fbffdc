"""Splits of the size that they have on disk."""

from typing import Any


class SizesOnDisk:
    """Comes before a class of AlgoPerf in the bases of a variant.

    AlgoPerf counts on the sizes of the published splits. Who inherits from this fills
    `_sizes`, split name to number of examples, as soon as it is told where the data is.
    """

    _sizes: dict[str, int]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sizes = {}

    @property
    def num_train_examples(self) -> int:
        """Examples in the training split on disk."""
        return self._size('train')

    @property
    def num_validation_examples(self) -> int:
        """Examples in the validation split on disk."""
        return self._size('validation')

    @property
    def num_test_examples(self) -> int:
        """Examples in the test split on disk."""
        return self._size('test')

    def _size(self, split: str) -> int:
        if split not in self._sizes:
            raise ValueError(
                f'The number of {split} examples is that of the data on disk, which '
                'is looked at by _build_input_queue() and eval_model().'
            )
        return self._sizes[split]
