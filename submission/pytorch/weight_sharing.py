"""The weight-sharing format: every layer's values as rows, and whose they are.

A linear weight-sharing layer is applied at several positions (tokens, pixels,
nodes, edges) of each example. Whatever the layer and the model, its inputs and
output gradients are brought into one format here: rows, one for each position,
with the example that each row belongs to. Padding is dropped at the same place, and
so are positions that the factors are not computed from. All K-FAC arithmetic after
that is the same for every layer.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class SharedTensor:
    """Inputs or output gradients of a layer in weight-sharing format, no padding.

    Attributes:
      values: Has shape `[examples, positions, groups, features]`, or
        `[rows, groups, features]` where the number of positions varies.
      example_index: The example of each row, shape `[rows]`; None for the first
        shape.
      n_examples: Number of examples N.
      multiplicity: Number of positions that each row is the sum of.
      row_weight: Number of positions in the batch for each row here.
    """

    values: Tensor
    example_index: Tensor | None
    n_examples: int
    multiplicity: int = 1
    row_weight: float = 1.0

    def rows(self) -> Tensor:
        """All positions of all examples, shape `[rows, groups, features]`."""
        return self.values.flatten(0, -3)

    def sum_over_positions(self) -> Tensor:
        """Sums each example's rows, shape `[examples, groups, features]`."""
        if self.example_index is None:
            return self.values.sum(1)
        sums = self.values.new_zeros(self.n_examples, *self.values.shape[1:])
        return sums.index_add_(0, self.example_index, self.values)

    def positions(self) -> Tensor:
        """Number of positions R_n of each example, shape `[examples]`."""
        if self.example_index is None:
            count = self.values.shape[1] * self.multiplicity
            return self.values.new_full((self.n_examples,), count)
        ones = self.values.new_full((self.values.shape[0],), self.multiplicity)
        return self.values.new_zeros(self.n_examples).index_add_(
            0, self.example_index, ones
        )


class AmbiguousRowsError(ValueError):
    """A layer's rows cannot be told apart: nodes or edges, for instance."""


@dataclasses.dataclass(frozen=True)
class RealRows:
    """Which of a fixed number of rows are real, and whose they are.

    Attributes:
      keep: Selects the real rows. A slice wherever padding comes last, since it
        selects without a copy.
      example_index: The example of each real row; real examples are numbered
        without gaps.
      n_examples: Number of real examples.
      row_weight: Number of real rows in the batch for each of these.
    """

    keep: slice | Tensor
    example_index: Tensor
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
          example_of_row: The example of each row, numbered without gaps; arbitrary
            for rows that are not real. Shape `[rows]`.
          real: Whether a row is real, shape `[rows]`.
          n_examples: Number of real examples.
          n_real_rows: Number of real rows in the batch; None if these are all.
        """
        keep = _as_slice(real)
        example_index = example_of_row[keep]
        if n_real_rows is None:
            return cls(keep, example_index, n_examples)
        row_weight = n_real_rows / max(len(example_index), 1)
        return cls(keep, example_index, n_examples, row_weight)


@dataclasses.dataclass(frozen=True)
class BatchStructure:
    """How the rows of a batch are spread over its examples, and which are padding.

    Attributes:
      n_examples: Number of examples in the batch, padding included.
      real_examples: Selects the examples that are not padding.
      sequences: For batches of padded sequences, sequence length to the real rows
        of `[n_examples * positions taken]`.
      graph_rows: For batches of graphs, number of rows to the real ones among
        them; None marks a number that fits nodes as well as edges.
      stride: One in this many positions of each example is taken.
    """

    n_examples: int
    real_examples: slice | Tensor
    sequences: Mapping[int, RealRows]
    graph_rows: Mapping[int, RealRows | None] | None
    stride: int = 1

    @classmethod
    def from_batch(cls, batch: Mapping[str, Any], stride: int = 1) -> 'BatchStructure':
        """Reads the structure off an AlgoPerf batch.

        An example whose loss weights are all zero is padding. Graph batches are
        recognised by `n_node` and `n_edge`; without weights their padding is found
        by jraph's rule: the last graph with any node, and all empty ones after it.

        Args:
          batch: The batch.
          stride: One in this many positions of each example is taken. Of nodes and
            edges it is as large a share of all, the first ones: they are there
            without a copy, batches are shuffled, and every second edge might be the
            same direction of each bond.
        """
        inputs, weights = batch['inputs'], batch.get('weights')
        real = None
        if weights is not None:
            real = (weights.flatten(1).any(1) if weights.dim() > 1 else weights).bool()
        if hasattr(inputs, 'n_node') and hasattr(inputs, 'n_edge'):
            return cls._from_graphs(inputs, real, stride)
        targets = batch['targets']
        targets = targets[0] if isinstance(targets, tuple | list) else targets
        if real is None:
            device = targets.device
            real = torch.ones(targets.shape[0], dtype=torch.bool, device=device)
        masks: dict[int, Tensor] = {}
        if _is_token_sequence(targets):
            if weights is not None and weights.shape == targets.shape:
                masks[targets.shape[1]] = weights.bool()
            if _is_token_sequence(inputs):
                # AlgoPerf pads token sequences with 0. Source and target of equal
                # length cannot be told apart: keep what is real in either.
                length, real_inputs = inputs.shape[1], inputs != 0
                masks[length] = masks.get(length, real_inputs) | real_inputs
        number, n_real = real.long().cumsum(0) - 1, int(real.sum())
        sequences = {}
        for length, mask in masks.items():
            mask = mask & real[:, None]
            taken = mask if stride == 1 else mask[:, ::stride]
            sequences[length] = RealRows.select(
                number.repeat_interleave(taken.shape[1]),
                taken.flatten(),
                n_real,
                None if stride == 1 else int(mask.sum()),
            )
        return cls(len(real), _as_slice(real), sequences, None, stride)

    @classmethod
    def _from_graphs(
        cls, graphs: Any, real: Tensor | None, stride: int
    ) -> 'BatchStructure':
        counts = {'nodes': graphs.n_node, 'edges': graphs.n_edge}
        n_graphs = graphs.n_node.shape[0]
        graph_index = torch.arange(n_graphs, device=graphs.n_node.device)
        if real is None:
            occupied = graphs.n_node.nonzero()
            real = graph_index < (int(occupied[-1]) if len(occupied) else 0)
        number, n_real = real.long().cumsum(0) - 1, int(real.sum())
        graph_rows: dict[int, RealRows | None] = {
            n_graphs: RealRows.select(number, real, n_real)
        }
        for count in counts.values():
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
        self, values: Tensor, multiplicity: int = 1
    ) -> SharedTensor:
        """Brings a layer's inputs or output gradients into weight-sharing format.

        Args:
          values: Shape `[rows, groups, features]` for graphs, otherwise
            `[examples, *positions, groups, features]`, where examples may also be
            the second axis (time-major), or be folded with the positions after
            them into the first axis.
          multiplicity: Number of positions that each row is the sum of.

        Raises:
          AmbiguousRowsError: If the rows of a graph batch fit neither its graphs,
            nodes nor edges, or more than one of them.
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
        if leading[0] != n and len(leading) > 1 and leading[1] == n:
            values = values.transpose(0, 1)
        elif leading[0] % n != 0:
            # Not spread over the examples at all, such as a learnt query.
            values = values.reshape(leading[0], -1, *values.shape[-2:])
            return SharedTensor(values, None, leading[0], multiplicity)
        values = values.reshape(n, -1, *values.shape[-2:])
        n_positions = values.shape[1]
        if self.stride > 1:
            values = values[:, :: self.stride]
        sequence = self.sequences.get(n_positions)
        if sequence is not None:
            return _select(values.flatten(0, 1), sequence, multiplicity)
        values = values[self.real_examples]
        row_weight = n_positions / max(values.shape[1], 1)
        return SharedTensor(values, None, values.shape[0], multiplicity, row_weight)


def _select(flat: Tensor, rows: RealRows, multiplicity: int) -> SharedTensor:
    values = flat[: len(rows.keep)] if isinstance(rows.keep, Tensor) else flat
    return SharedTensor(
        values[rows.keep],
        rows.example_index,
        rows.n_examples,
        multiplicity,
        rows.row_weight,
    )


def _as_slice(mask: Tensor) -> slice | Tensor:
    """Returns a mask as a slice where all it keeps comes first."""
    n_kept = int(mask.sum())
    return slice(0, n_kept) if bool(mask[:n_kept].all()) else mask


def _is_token_sequence(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.dim() == 2
        and not value.dtype.is_floating_point
    )
