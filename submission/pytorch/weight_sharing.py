"""The weight-sharing format, and the two approximations on top of it.

A linear weight-sharing layer is applied at several positions (tokens, pixels,
nodes, edges) of each example. Whatever the layer and the model, its inputs and
output gradients are brought into one format here: rows, one for each position,
with the example that each row belongs to. Padding is dropped at the same place.
All K-FAC arithmetic after that is the same for every layer.

The notation is that of Eschenhagen et al. (2023), Section 3: N examples, R
positions (R_n where it varies), inputs a[n, r], gradients g[n, r] of the summed
loss with respect to the layer's output, M loss terms.
"""

import dataclasses
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
    """

    values: Tensor
    example_index: Tensor | None
    n_examples: int
    multiplicity: int = 1

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
    """

    keep: slice | Tensor
    example_index: Tensor
    n_examples: int

    @classmethod
    def select(
        cls, example_of_row: Tensor, real: Tensor, n_examples: int
    ) -> 'RealRows':
        """Builds the selection.

        Args:
          example_of_row: The example of each row, numbered without gaps; arbitrary
            for rows that are not real. Shape `[rows]`.
          real: Whether a row is real, shape `[rows]`.
          n_examples: Number of real examples.
        """
        keep = _as_slice(real)
        return cls(keep, example_of_row[keep], n_examples)


@dataclasses.dataclass(frozen=True)
class BatchStructure:
    """How the rows of a batch are spread over its examples, and which are padding.

    Attributes:
      n_examples: Number of examples in the batch, padding included.
      real_examples: Selects the examples that are not padding.
      sequences: For batches of padded sequences, sequence length to the real rows
        of `[n_examples * length]`.
      graph_rows: For batches of graphs, number of rows to the real ones among
        them; None marks a number that fits nodes as well as edges.
    """

    n_examples: int
    real_examples: slice | Tensor
    sequences: Mapping[int, RealRows]
    graph_rows: Mapping[int, RealRows | None] | None

    @classmethod
    def from_batch(cls, batch: Mapping[str, Any]) -> 'BatchStructure':
        """Reads the structure off an AlgoPerf batch.

        An example whose loss weights are all zero is padding. Graph batches are
        recognised by `n_node` and `n_edge`; without weights their padding is found
        by jraph's rule: the last graph with any node, and all empty ones after it.
        """
        inputs, weights = batch['inputs'], batch.get('weights')
        real = None
        if weights is not None:
            real = (weights.flatten(1).any(1) if weights.dim() > 1 else weights).bool()
        if hasattr(inputs, 'n_node') and hasattr(inputs, 'n_edge'):
            return cls._from_graphs(inputs, real)
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
        sequences = {
            length: RealRows.select(
                number.repeat_interleave(length),
                (mask & real[:, None]).flatten(),
                n_real,
            )
            for length, mask in masks.items()
        }
        return cls(len(real), _as_slice(real), sequences, None)

    @classmethod
    def _from_graphs(cls, graphs: Any, real: Tensor | None) -> 'BatchStructure':
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
            rows = RealRows.select(number[graph_of_row], real[graph_of_row], n_real)
            clash = len(graph_of_row) in graph_rows
            graph_rows[len(graph_of_row)] = None if clash else rows
        return cls(n_graphs, _as_slice(real), {}, graph_rows)

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
        sequence = self.sequences.get(values.shape[1])
        if sequence is not None:
            return _select(values.flatten(0, 1), sequence, multiplicity)
        values = values[self.real_examples]
        return SharedTensor(values, None, values.shape[0], multiplicity)


def _select(flat: Tensor, rows: RealRows, multiplicity: int) -> SharedTensor:
    return SharedTensor(
        flat[rows.keep], rows.example_index, rows.n_examples, multiplicity
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


@dataclasses.dataclass
class FactorSums:
    """Sums from which the Kronecker factors of a layer follow.

    They add up over processes, each holding a part of the batch.

    Attributes:
      inputs: Sum of outer products on the input side,
        `[groups, d_in, d_in]`, d_in counting the bias.
      input_count: Number of outer products in `inputs`.
      gradients: Sum of outer products on the output side,
        `[groups, d_out, d_out]`.
    """

    inputs: Tensor
    input_count: Tensor
    gradients: Tensor

    def kronecker_factors(
        self, loss_terms: Tensor | float, gradient_scale: Tensor | float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Returns A and B of the GGN block A kron B of the *mean* loss.

        The scale depends on the number of loss terms M alone, whichever
        approximation filled the sums.

        Args:
          loss_terms: M, the number of terms that the loss averages over.
          gradient_scale: What the gradients have to be multiplied with to be those
            of the summed loss: M if they came from the mean loss.
        """
        factor_a = self.inputs / self.input_count.clamp(min=1)
        factor_b = self.gradients * (gradient_scale**2 / loss_terms)
        return factor_a, factor_b


class ExpandSums:
    """K-FAC-expand: every position counts as an example of its own.

    A is the mean over all (n, r) of a aT, B is 1/M times the sum over all (n, r)
    of g gT (Equations 18 and 19 of the paper). A layer that is applied several
    times in a forward pass has that many times the positions.
    """

    sums_positions = False

    def __init__(self, bias: bool) -> None:
        self._bias = bias
        self._inputs: Tensor | None = None
        self._gradients: Tensor | None = None
        self._n_rows = 0

    def add_inputs(self, inputs: SharedTensor) -> None:
        """Adds the inputs of one application of the layer."""
        rows = inputs.rows()
        gram = _gram(rows)
        if self._bias:
            gram = _append_bias(gram, rows.sum(0), rows.shape[0])
        self._inputs = gram if self._inputs is None else self._inputs + gram
        self._n_rows += rows.shape[0]

    def add_gradients(self, gradients: SharedTensor) -> None:
        """Adds the output gradients of one application of the layer."""
        gram = _gram(gradients.rows())
        self._gradients = gram if self._gradients is None else self._gradients + gram

    def sums(self) -> FactorSums | None:
        """Returns the sums, or None if the layer was not reached both ways."""
        if self._inputs is None or self._gradients is None:
            return None
        count = self._inputs.new_tensor(float(self._n_rows))
        return FactorSums(self._inputs, count, self._gradients)


class ReduceSums:
    """K-FAC-reduce: the positions of an example are reduced before any product.

    With `mean_inputs` A is the mean over n of the outer product of the inputs'
    mean over r, and B is 1/M times the sum over n of the outer product of the
    gradients' sum over r (Equation 22). With `sum_inputs` inputs are
    summed and gradients averaged, which is what a sum-pooled model with a varying
    number of positions calls for; where that number is constant, both are equal.

    Some gradients cancel over positions: those of attention keys do always, since a
    softmax does not change if all its inputs are shifted. What is left is rounding
    error, and the factor is set to exactly zero.
    """

    sums_positions = True

    def __init__(self, bias: bool, normalisation: str) -> None:
        self._bias = bias
        self._mean_inputs = normalisation == 'mean_inputs'
        self._inputs: Tensor | None = None
        self._gradients: Tensor | None = None
        self._gradient_squares: Tensor | float = 0.0
        self._positions: Tensor | None = None

    def add_inputs(self, inputs: SharedTensor) -> None:
        """Adds the inputs of one application of the layer."""
        summed, positions = inputs.sum_over_positions(), inputs.positions()
        if self._inputs is None or self._positions is None:
            self._inputs, self._positions = summed, positions
        elif len(self._inputs) != len(summed):
            raise AmbiguousRowsError(
                f'A layer was applied to {len(self._inputs)} examples and then, in '
                f'the same forward pass, to {len(summed)}.'
            )
        else:
            self._inputs = self._inputs + summed
            self._positions = self._positions + positions

    def add_gradients(self, gradients: SharedTensor) -> None:
        """Adds the output gradients of one application of the layer."""
        summed = gradients.sum_over_positions()
        self._gradient_squares += torch.linalg.vector_norm(gradients.values) ** 2
        self._gradients = (
            summed if self._gradients is None else self._gradients + summed
        )

    def sums(self) -> FactorSums | None:
        """Returns the sums, or None if the layer was not reached both ways."""
        if self._inputs is None or self._gradients is None or self._positions is None:
            return None
        inputs, gradients = self._inputs, self._gradients
        rounding = 100 * torch.finfo(gradients.dtype).eps
        left = torch.linalg.vector_norm(gradients) ** 2
        cancelled = left < rounding**2 * self._gradient_squares
        gradients = torch.where(cancelled, 0.0, gradients)
        positions = self._positions[:, None, None]
        if self._bias:
            # The bias's input is 1 at every position, so its sum is R_n.
            ones = positions.expand(-1, inputs.shape[1], 1)
            inputs = torch.cat([inputs, ones], -1)
        # An example may have no position at all (a graph without edges).
        at_least_one = positions.clamp(min=1)
        if self._mean_inputs:
            inputs = inputs / at_least_one
        else:
            gradients = gradients / at_least_one
        # Only examples with a position have an input to average over.
        count = (self._positions > 0).sum().to(inputs.dtype)
        return FactorSums(_gram(inputs), count, _gram(gradients))


def _gram(rows: Tensor) -> Tensor:
    """Sums the outer products of rows, `[rows, G, d]` to `[G, d, d]`."""
    if rows.shape[1] == 1:
        matrix = rows.squeeze(1)
        return (matrix.T @ matrix).unsqueeze(0)
    by_group = rows.transpose(0, 1)
    return by_group.transpose(1, 2) @ by_group


def _append_bias(gram: Tensor, row_sum: Tensor, n_rows: int) -> Tensor:
    """Extends the Gram matrix of rows to that of rows with a 1 appended."""
    groups, d = row_sum.shape
    extended = gram.new_empty(groups, d + 1, d + 1)
    extended[:, :d, :d] = gram
    extended[:, :d, d] = row_sum
    extended[:, d, :d] = row_sum
    extended[:, d, d] = n_rows
    return extended
