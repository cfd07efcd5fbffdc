"""The weight-sharing format: every layer's values as rows, and whose they are.

A linear weight-sharing layer is applied at several positions (tokens, pixels,
nodes, edges) of each example. Whatever the layer and the model, its inputs and
output gradients are brought into one format here: rows, one for each position,
with the example that each row belongs to. Padding is dropped at the same place, and
so are positions that the factors are not computed from. All K-FAC arithmetic after
that is the same for every layer.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..rows import AmbiguousRowsError, check_batch, check_time_major


@dataclasses.dataclass(frozen=True)
class Segments:
    """Rows of which those of an example follow one another.

    Attributes:
      first_rows: The first row of each example, shape `[examples]`.
      n_rows: Number of rows of all examples.
    """

    first_rows: Tensor
    n_rows: int

    # Once for all the layers whose rows are spread like this.
    @functools.cached_property
    def row_numbers(self) -> Tensor:
        """Numbers the rows, shape `[rows]`."""
        return torch.arange(self.n_rows, device=self.first_rows.device)

    @functools.cached_property
    def counts(self) -> Tensor:
        """Number of rows of each example, shape `[examples]`."""
        return self.first_rows.diff(append=self.first_rows.new_tensor([self.n_rows]))

    def sums(self, rows: Tensor) -> Tensor:
        """Sums each example's rows, `[rows, ...]` to `[examples, ...]`."""
        # Faster than scattered additions, and in the same order every time.
        sums = F.embedding_bag(
            self.row_numbers, rows.flatten(1), self.first_rows, mode='sum'
        )
        return sums.view(len(self.first_rows), *rows.shape[1:])


@dataclasses.dataclass(frozen=True)
class SharedTensor:
    """Inputs or output gradients of a layer in weight-sharing format, no padding.

    Attributes:
      values: Has shape `[examples, positions, groups, features]`, or
        `[rows, groups, features]` where the number of positions varies.
      segments: The rows of each example; None for the first shape.
      n_examples: Number of examples N.
      multiplicity: Number of positions that each row is the sum of.
      row_weight: Number of positions in the batch for each row here.
    """

    values: Tensor
    segments: Segments | None
    n_examples: int
    multiplicity: int = 1
    row_weight: float = 1.0

    @property
    def rows_per_example(self) -> float:
        """Number of rows for each example; its mean if it varies."""
        return math.prod(self.values.shape[:-2]) / max(self.n_examples, 1)

    def rows(self) -> Tensor:
        """All positions of all examples, shape `[rows, groups, features]`."""
        return self.values.flatten(0, -3)

    def sum_over_positions(self) -> Tensor:
        """Sums each example's rows, shape `[examples, groups, features]`.

        The sums are in the precision of `sums_dtype`.
        """
        dtype = sums_dtype(self.values.dtype)
        if self.segments is None:
            return self.values.sum(1, dtype=dtype)
        return self.segments.sums(self.values.to(dtype))

    def positions(self) -> Tensor | int:
        """Number of positions R_n of each example.

        Shape `[examples]`, in the precision of `sums_dtype`; one number where all have
        as many.
        """
        if self.segments is None:
            return self.values.shape[1] * self.multiplicity
        counts = self.segments.counts.to(sums_dtype(self.values.dtype))
        return counts if self.multiplicity == 1 else counts * self.multiplicity


@functools.cache
def sums_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the precision to sum in, which is at least single.

    In bfloat16 256 + 1 is 256, and in float16 no sum passes 65504.
    """
    return torch.promote_types(dtype, torch.float32)


@dataclasses.dataclass(frozen=True)
class RealRows:
    """Which of a fixed number of rows are real, and whose they are.

    Attributes:
      keep: Selects the real rows. A slice wherever padding comes last, since it
        selects without a copy.
      segments: The real rows of each real example.
      n_examples: Number of real examples.
      row_weight: Number of real rows in the batch for each of these.
    """

    keep: slice | Tensor
    segments: Segments
    n_examples: int
    row_weight: float = 1.0

    @classmethod
    def select(
        cls,
        example_of_row: Tensor,
        real: Tensor,
        n_examples: int,
        n_real_rows: int | None = None,
    ) -> 'RealRows':
        """Builds the selection.

        Args:
          example_of_row: The example of each row, numbered without gaps and in
            ascending order; arbitrary for rows that are not real. Shape `[rows]`.
          real: Whether a row is real, shape `[rows]`.
          n_examples: Number of real examples.
          n_real_rows: Number of real rows in the batch; None if these are all.
        """
        keep = _as_slice(real)
        kept = example_of_row[keep]
        examples = torch.arange(n_examples, device=kept.device)
        segments = Segments(torch.searchsorted(kept, examples), len(kept))
        if n_real_rows is None:
            return cls(keep, segments, n_examples)
        row_weight = n_real_rows / max(len(kept), 1)
        return cls(keep, segments, n_examples, row_weight)


@dataclasses.dataclass(frozen=True)
class BatchStructure:
    """How the rows of a batch are spread over its examples, and which are padding.

    Attributes:
      n_examples: Number of examples in the batch, padding included.
      real_examples: Selects the examples that are not padding.
      sequences: For batches of padded sequences, sequence length to the real rows
        of `[n_examples * positions taken]`.
      real_share: For batches of padded signals, whose lengths differ from layer to
        layer, the share of each example that is not padding; shape `[n_examples]`.
      graph_rows: For batches of graphs, number of rows to the real ones among
        them; None marks a number that fits nodes as well as edges.
      stride: One in this many positions of each example is taken.
      first: The first of these.
    """

    n_examples: int
    real_examples: slice | Tensor
    sequences: Mapping[int, RealRows]
    graph_rows: Mapping[int, RealRows | None] | None
    stride: int = 1
    first: int = 0
    real_share: Tensor | None = None

    @property
    def pads_positions(self) -> bool:
        """Whether some positions of a real example may be padding."""
        return bool(self.sequences) or self.real_share is not None

    @classmethod
    def from_batch(
        cls,
        batch: Mapping[str, Any],
        stride: int = 1,
        first: int = 0,
        device: torch.device | None = None,
    ) -> 'BatchStructure':
        """Reads the structure off an AlgoPerf batch.

        An example whose loss weights are all zero is padding. Graph batches are
        recognised by `n_node` and `n_edge`; without weights their padding is found
        by jraph's rule: the last graph with any node, and all empty ones after it.
        Of token sequences, positions of weight 0 are padding and so, in AlgoPerf's
        way, are inputs of 0; without weights and with a target for every input each
        position is a term of the loss, and none is padding. Signals come with their
        padding, `(signal, padding)`, both `[examples, time]`, which lies at the end.

        Args:
          batch: Has `inputs`, `targets` and perhaps `weights`.
          stride: One in this many positions of each example is taken. Of nodes and
            edges it is as large a share of all, the first ones: they are there
            without a copy, batches are shuffled, and every second edge might be the
            same direction of each bond.
          first: The first of the positions taken, counted on from the last to the
            first again. One that grows by 1 from batch to batch takes each in turn,
            whatever regular pattern the positions have.
          device: Where the layers compute. Parts of a batch may be elsewhere: AlgoPerf
            leaves that of speech on the host, and graphs that one process sends to
            the others on the sender's device. None takes the batch as it is.

        Raises:
          ValueError: If the batch is not of that kind.
        """
        check_batch(batch)
        inputs, weights = batch['inputs'], batch.get('weights')
        real = None
        if weights is not None:
            real = (weights.flatten(1).any(1) if weights.dim() > 1 else weights).bool()
            real = real.to(device)
        if hasattr(inputs, 'n_node') and hasattr(inputs, 'n_edge'):
            n_node, n_edge = inputs.n_node.to(device), inputs.n_edge.to(device)
            return cls._from_graphs(n_node, n_edge, real, stride)
        targets = batch['targets']
        targets = targets[0] if isinstance(targets, tuple | list) else targets
        if real is None:
            real = torch.ones(
                targets.shape[0], dtype=torch.bool, device=device or targets.device
            )
        masks: dict[int, Tensor] = {}
        if _is_token_sequence(targets):
            if weights is not None and weights.shape == targets.shape:
                masks[targets.shape[1]] = weights.bool().to(device)
            if _is_token_sequence(inputs) and not (
                weights is None and inputs.shape == targets.shape
            ):
                # AlgoPerf pads token sequences with 0. Source and target of equal
                # length cannot be told apart: keep what is real in either.
                length, real_inputs = inputs.shape[1], (inputs != 0).to(device)
                masks[length] = masks.get(length, real_inputs) | real_inputs
        sequences = {
            length: _real_positions(mask, real, stride, first)
            for length, mask in masks.items()
        }
        real_share = None
        if _is_padded_signal(inputs):
            real_share = (1.0 - inputs[1]).mean(1).to(device) * real
        return cls(
            len(real), _as_slice(real), sequences, None, stride, first, real_share
        )

    @classmethod
    def _from_graphs(
        cls, n_node: Tensor, n_edge: Tensor, real: Tensor | None, stride: int
    ) -> 'BatchStructure':
        n_graphs = n_node.shape[0]
        graph_index = torch.arange(n_graphs, device=n_node.device)
        if real is None:
            occupied = n_node.nonzero()
            real = graph_index < (int(occupied[-1]) if len(occupied) else 0)
        number, n_real = real.long().cumsum(0) - 1, int(real.sum())
        graph_rows: dict[int, RealRows | None] = {
            n_graphs: RealRows.select(number, real, n_real)
        }
        for count in (n_node, n_edge):
            graph_of_row = torch.repeat_interleave(graph_index, count)
            n_rows, n_real_rows = len(graph_of_row), None
            if stride > 1:
                n_real_rows = int(real[graph_of_row].sum())
                graph_of_row = graph_of_row[: math.ceil(n_rows / stride)]
            rows = RealRows.select(
                number[graph_of_row], real[graph_of_row], n_real, n_real_rows
            )
            clash = n_rows in graph_rows
            graph_rows[n_rows] = None if clash else rows
        return cls(n_graphs, _as_slice(real), {}, graph_rows, stride)

    def to_weight_sharing_format(
        self, values: Tensor, multiplicity: int = 1, by_example: bool = True
    ) -> SharedTensor:
        """Brings a layer's inputs or output gradients into weight-sharing format.

        Args:
          values: Shape `[rows, groups, features]` for graphs, otherwise
            `[examples, *positions, groups, features]`, where examples may also be
            the second axis (time-major), or be folded with the positions after
            them into the first axis.
          multiplicity: Number of positions that each row is the sum of.
          by_example: Whether it matters which example a row belongs to.

        Raises:
          AmbiguousRowsError: If the rows of a graph batch fit neither its graphs,
            nodes nor edges, or more than one of them; or if rows may be time-major
            or have positions folded into the first axis, and it matters.
        """
        if values.dim() == 2:
            # A single vector, without any leading axis.
            values = values.unsqueeze(0)
        if self.graph_rows is not None:
            flat = values.flatten(0, -3)
            graph_rows = self.graph_rows.get(flat.shape[0])
            if graph_rows is None:
                known = ', '.join(str(size) for size in self.graph_rows)
                raise AmbiguousRowsError(
                    f'A layer got {flat.shape[0]} rows in a batch of graphs; they '
                    f'do not fit one of graphs, nodes, edges ({known} rows) alone.'
                )
            return _select(flat, graph_rows, multiplicity)
        n, leading = self.n_examples, values.shape[:-2]
        if n == 0:
            # The last part of some data, for one of several processes.
            values = values.reshape(0, 1, *values.shape[-2:])
            return SharedTensor(values, None, 0, multiplicity)
        if leading[0] != n and len(leading) > 1 and leading[1] == n:
            matters = by_example or not self._every_row_counts
            check_time_major(leading, n, self.sequences, matters)
            values = values.transpose(0, 1)
        elif leading[0] % n != 0:
            # Not spread over the examples at all, such as a learnt query.
            values = values.reshape(leading[0], -1, *values.shape[-2:])
            return SharedTensor(values, None, leading[0], multiplicity)
        # Each layer comes by here while the caches are full of something else, where
        # even an operation that does nothing takes as long as a small sum.
        if values.dim() != 4 or values.shape[0] != n:
            values = values.reshape(n, -1, *values.shape[-2:])
        n_positions = values.shape[1]
        values = _take_positions(values, self.stride, self.first)
        sequence = self._real_rows(n_positions)
        if sequence is not None:
            return _select(values.flatten(0, 1), sequence, multiplicity)
        if not self._every_example_is_real:
            values = values[self.real_examples]
        row_weight = n_positions / max(values.shape[1], 1)
        return SharedTensor(values, None, values.shape[0], multiplicity, row_weight)

    @property
    def _every_row_counts(self) -> bool:
        """Whether no row is padding or left out."""
        whole = self.stride == 1 and not self.pads_positions
        return whole and self._every_example_is_real

    @property
    def _every_example_is_real(self) -> bool:
        return self.real_examples == slice(0, self.n_examples)

    def _real_rows(self, n_positions: int) -> RealRows | None:
        """Returns the real rows of sequences of this length, None if all are."""
        if self.real_share is None or n_positions in self.sequences:
            return self.sequences.get(n_positions)
        # A frame that is real in part counts; rounding error is no such part.
        n_real = torch.ceil(self.real_share * n_positions - 1e-3)
        position = torch.arange(n_positions, device=n_real.device)
        mask = position < n_real[:, None]
        return _real_positions(mask, self.real_share > 0, self.stride, self.first)


def _take_positions(values: Tensor, stride: int, first: int) -> Tensor:
    """Takes one in `stride` positions, `[examples, positions, ...]` to the same."""
    if stride == 1:
        return values
    n_positions = values.shape[1]
    taken = torch.arange(first, first + n_positions, stride, device=values.device)
    return values[:, taken % n_positions]


def _real_positions(mask: Tensor, real: Tensor, stride: int, first: int) -> RealRows:
    """Selects the real positions of real examples among those that are taken.

    Args:
      mask: Whether a position is real, shape `[examples, positions]`.
      real: Whether an example is, shape `[examples]`.
      stride: One in this many positions is taken.
      first: The first of these.
    """
    mask = mask & real[:, None]
    taken = _take_positions(mask, stride, first)
    return RealRows.select(
        (real.long().cumsum(0) - 1).repeat_interleave(taken.shape[1]),
        taken.flatten(),
        int(real.sum()),
        None if stride == 1 else int(mask.sum()),
    )


def _select(flat: Tensor, rows: RealRows, multiplicity: int) -> SharedTensor:
    values = flat[: len(rows.keep)] if isinstance(rows.keep, Tensor) else flat
    return SharedTensor(
        values[rows.keep],
        rows.segments,
        rows.n_examples,
        multiplicity,
        rows.row_weight,
    )


def _as_slice(mask: Tensor) -> slice | Tensor:
    """Returns a mask as a slice where all it keeps comes first."""
    n_kept = int(mask.sum())
    return slice(0, n_kept) if bool(mask[:n_kept].all()) else mask


def _is_padded_signal(inputs: Any) -> bool:
    """Returns whether inputs are `(signal, padding)` as speech has in AlgoPerf."""
    if not isinstance(inputs, tuple | list) or len(inputs) != 2:
        return False
    signal, padding = inputs
    return (
        isinstance(signal, Tensor)
        and isinstance(padding, Tensor)
        and padding.dim() == 2
        and padding.dtype.is_floating_point
        and signal.shape[:2] == padding.shape
    )


def _is_token_sequence(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.dim() == 2
        # A column of labels is no sequence.
        and value.shape[1] > 1
        and not value.dtype.is_floating_point
    )
