"""The weight-sharing format: every layer's values as rows, and whose they are.

A linear weight-sharing layer is applied at several positions (tokens, pixels,
nodes, edges) of each example. Whatever the layer and the model, its inputs and
output gradients are brought into one format here: rows, one for each position,
with the example that each row belongs to. Shapes are fixed when a step is compiled,
so padding is not dropped but masked, at the same place; positions that the factors
are not computed from are dropped there. All K-FAC arithmetic after that is the same
for every layer.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class SharedTensor:
    """Inputs or output gradients of a layer in weight-sharing format.

    Attributes:
      values: Has shape `[examples, positions, groups, features]`, or
        `[rows, groups, features]` where the number of positions varies.
      keep: Which rows are not padding, `[examples]`, `[examples, positions]` or
        `[rows]`; None if all are real.
      example_index: The example of each row, shape `[rows]`; None for the first
        shape of `values`.
      n_examples: Number of examples N, padding included.
      multiplicity: Number of positions that each row is the sum of.
      row_weight: Number of positions in the batch for each row here, padding not
        counted; None if all are here.
    """

    values: jax.Array
    keep: jax.Array | None
    example_index: jax.Array | None
    n_examples: int
    multiplicity: int = 1
    row_weight: jax.Array | float | None = None

    def _masked(self) -> jax.Array:
        if self.keep is None:
            return self.values
        missing = self.values.ndim - self.keep.ndim
        keep = self.keep.reshape(self.keep.shape + (1,) * missing)
        # Not a product: padding may hold anything, even what is not a number.
        return jnp.where(keep, self.values, 0)

    def rows(self) -> jax.Array:
        """All positions of all examples, zero for padding, `[rows, groups, d]`."""
        masked = self._masked()
        return masked.reshape(-1, *masked.shape[-2:])

    def row_count(self) -> jax.Array:
        """Number of rows that are not padding, a scalar."""
        return self.positions().sum()

    def sum_over_positions(self) -> jax.Array:
        """Sums each example's rows, shape `[examples, groups, features]`."""
        masked = self._masked()
        if self.example_index is None:
            return masked.sum(1)
        return jax.ops.segment_sum(masked, self.example_index, self.n_examples)

    def positions(self) -> jax.Array:
        """Number of real positions R_n of each example, shape `[examples]`."""
        dtype = self.values.dtype
        if self.example_index is None:
            keep = jnp.ones(self.n_examples, bool) if self.keep is None else self.keep
            if keep.ndim == 1:
                return keep.astype(dtype) * (self.values.shape[1] * self.multiplicity)
            return keep.astype(dtype).sum(1) * self.multiplicity
        ones = (
            jnp.ones(self.values.shape[0], dtype)
            if self.keep is None
            else self.keep.astype(dtype)
        )
        counts = jax.ops.segment_sum(ones, self.example_index, self.n_examples)
        return counts * self.multiplicity


class AmbiguousRowsError(ValueError):
    """A layer's rows cannot be told apart: nodes or edges, for instance."""


class RealRows(NamedTuple):
    """Which of a fixed number of rows are real, and whose they are.

    Attributes:
      keep: Whether a row is real, `[rows]`.
      example_index: The example of each row, `[rows]`.
      row_weight: Number of real rows in the batch for each of these; None if these
        are all.
    """

    keep: jax.Array
    example_index: jax.Array
    row_weight: jax.Array | None = None


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=['example_range', 'real_examples', 'sequences', 'graph_rows'],
    meta_fields=['stride'],
)
@dataclasses.dataclass(frozen=True)
class BatchStructure:
    """How the rows of a batch are spread over its examples, and which are padding.

    Attributes:
      example_range: The numbers of the examples, `[examples]`; its length is the
        number of examples in the batch, padding included.
      real_examples: Which examples are not padding, `[examples]`; None if all are.
      sequences: For batches of padded sequences, sequence length to the mask of real
        positions `[examples, length]`.
      graph_rows: For batches of graphs, number of rows to the real ones among
        them; None marks a number that fits nodes as well as edges.
      stride: One in this many positions of each example is taken.
    """

    example_range: jax.Array
    real_examples: jax.Array | None
    sequences: dict[int, jax.Array]
    graph_rows: dict[int, RealRows | None] | None
    stride: int = 1

    @property
    def n_examples(self) -> int:
        """Number of examples in the batch, padding included."""
        return self.example_range.shape[0]

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
            real = (jnp.asarray(weights) != 0).reshape(len(weights), -1).any(1)
        if hasattr(inputs, 'n_node') and hasattr(inputs, 'n_edge'):
            return cls._from_graphs(inputs, real, stride)
        targets = batch['targets']
        targets = targets[0] if isinstance(targets, tuple | list) else targets
        masks: dict[int, jax.Array] = {}
        if _is_token_sequence(targets):
            if weights is not None and weights.shape == targets.shape:
                masks[targets.shape[1]] = jnp.asarray(weights) != 0
            if _is_token_sequence(inputs):
                # AlgoPerf pads token sequences with 0. Source and target of equal
                # length cannot be told apart: keep what is real in either.
                length, real_inputs = inputs.shape[1], jnp.asarray(inputs) != 0
                masks[length] = masks.get(length, real_inputs) | real_inputs
        if real is not None:
            masks = {length: mask & real[:, None] for length, mask in masks.items()}
        return cls(jnp.arange(targets.shape[0]), real, masks, None, stride)

    @classmethod
    def _from_graphs(
        cls, graphs: Any, real: jax.Array | None, stride: int
    ) -> 'BatchStructure':
        n_graphs = graphs.n_node.shape[0]
        graph_range = jnp.arange(n_graphs)
        if real is None:
            occupied = jnp.where(graphs.n_node > 0, graph_range, 0)
            real = graph_range < occupied.max()
        n_nodes = jax.tree.leaves(graphs.nodes)[0].shape[0]
        graph_rows: dict[int, RealRows | None] = {n_graphs: RealRows(real, graph_range)}
        for counts, n_rows in (
            (graphs.n_node, n_nodes),
            (graphs.n_edge, graphs.senders.shape[0]),
        ):
            graph_of_row = jnp.repeat(graph_range, counts, total_repeat_length=n_rows)
            clash, keep, row_weight = n_rows in graph_rows, real[graph_of_row], None
            if stride > 1:
                n_real_rows, n_taken = keep.sum(), math.ceil(n_rows / stride)
                graph_of_row, keep = graph_of_row[:n_taken], keep[:n_taken]
                row_weight = n_real_rows / jnp.maximum(keep.sum(), 1)
            graph_rows[n_rows] = (
                None if clash else RealRows(keep, graph_of_row, row_weight)
            )
        return cls(graph_range, real, {}, graph_rows, stride)

    def to_weight_sharing_format(
        self, values: jax.Array, multiplicity: int = 1
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
        if values.ndim == 2:
            # A single vector, without any leading axis.
            values = values[None]
        n = self.n_examples
        if self.graph_rows is not None:
            flat = values.reshape(-1, *values.shape[-2:])
            graph_rows = self.graph_rows.get(flat.shape[0])
            if graph_rows is None:
                known = ', '.join(str(size) for size in self.graph_rows)
                raise AmbiguousRowsError(
                    f'A layer got {flat.shape[0]} rows in a batch of graphs; they '
                    f'do not fit one of graphs, nodes, edges ({known} rows) alone.'
                )
            return SharedTensor(
                flat[: len(graph_rows.keep)],
                graph_rows.keep,
                graph_rows.example_index,
                n,
                multiplicity,
                graph_rows.row_weight,
            )
        leading = values.shape[:-2]
        if leading[0] != n and len(leading) > 1 and leading[1] == n:
            values = values.swapaxes(0, 1)
        elif leading[0] % n != 0:
            # Not spread over the examples at all, such as a learnt query.
            values = values.reshape(leading[0], -1, *values.shape[-2:])
            return SharedTensor(values, None, None, leading[0], multiplicity)
        values = values.reshape(n, -1, *values.shape[-2:])
        n_positions = values.shape[1]
        keep = self.sequences.get(n_positions, self.real_examples)
        if self.stride == 1 or n_positions <= 1:
            return SharedTensor(values, keep, None, n, multiplicity)
        values = values[:, :: self.stride]
        row_weight: jax.Array | float = n_positions / values.shape[1]
        if keep is not None and keep.ndim == 2:
            n_real_rows, keep = keep.sum(), keep[:, :: self.stride]
            row_weight = n_real_rows / jnp.maximum(keep.sum(), 1)
        return SharedTensor(values, keep, None, n, multiplicity, row_weight)


def _is_token_sequence(value: Any) -> bool:
    return (
        hasattr(value, 'dtype')
        and value.ndim == 2
        and not jnp.issubdtype(value.dtype, jnp.inexact)
    )
