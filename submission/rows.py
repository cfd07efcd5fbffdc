"""Which example a layer's rows belong to: what both frameworks say in one way."""

from collections.abc import Container, Mapping, Sequence
from typing import Any


class AmbiguousRowsError(ValueError):
    """A layer's rows cannot be told apart: nodes or edges, for instance."""


def check_batch(batch: Any) -> None:
    """Makes sure that the rows of examples can be read off a batch.

    Raises:
      ValueError: If it is no mapping with `inputs` and `targets`.
    """
    if not isinstance(batch, Mapping) or not batch.keys() >= {'inputs', 'targets'}:
        found = list(batch) if isinstance(batch, Mapping) else type(batch).__name__
        raise ValueError(
            "K-FAC reads which rows belong to which example off batch['inputs'] "
            f"and batch['targets']; got {found}."
        )


def check_time_major(
    leading: Sequence[int], n_examples: int, lengths: Container[int], by_example: bool
) -> None:
    """Makes sure that the second axis is that of the examples, where it matters.

    Args:
      leading: The axes before groups and features; the second is as long as the batch
        has examples.
      n_examples: Number of examples in the batch.
      lengths: Known lengths of sequences.
      by_example: Whether it matters which example a row belongs to.

    Raises:
      AmbiguousRowsError: If the first axis could be examples with positions folded into
        it, and it matters.
    """
    if leading[0] % n_examples == 0 and leading[0] not in lengths and by_example:
        raise AmbiguousRowsError(
            f'A layer got values of shape {tuple(leading)} (features left out) in a '
            f'batch of {n_examples} examples: either axis may hold the examples. '
            'Another batch size tells them apart.'
        )
