"""The training queue as the submission sees it, counting what is drawn."""

from collections.abc import Iterator
from typing import Any


class CountingQueue:
    """Passes batches on and counts them.

    A submission may draw any number of batches in a step, so the step count does
    not say where the queue is.

    Attributes:
        batches_drawn: How many batches were drawn or passed over.
    """

    def __init__(self, queue: Iterator[Any]) -> None:
        self._queue = queue
        self.batches_drawn = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        batch = next(self._queue)
        self.batches_drawn += 1
        return batch

    def skip(self, num_batches: int) -> None:
        """Passes over batches, without building them where the queue can."""
        skip = getattr(self._queue, 'skip', None)
        if skip is not None:
            skip(num_batches)
        else:
            for _ in range(num_batches):
                next(self._queue)
        self.batches_drawn += num_batches
