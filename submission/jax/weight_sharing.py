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

from ..rows import AmbiguousRowsError, check_batch, check_time_major


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

    @property
    def rows_per_example(self) -> float:
        """Number of rows for each example, padding counted; its mean if it varies."""
        return math.prod(self.values.shape[:-2]) / max(self.n_examples, 1)

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


def sums_dtype(dtype: Any) -> Any:
    """Returns the precision to sum in, which is at least single.

    In bfloat16 256 + 1 is 256, and in float16 no sum passes 65504.
    """
    return jnp.promote_types(dtype, jnp.float32)


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
    data_fields=[
        'example_range',
        'real_examples',
        'sequences',
        'graph_rows',
        'first',
        'real_share',
    ],
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
      first: The first of these, a scalar.
      real_share: For batches of padded signals, whose lengths differ from layer to
        layer, the share of each example that is not padding; shape `[examples]`.
    """

    example_range: jax.Array
    real_examples: jax.Array | None
    sequences: dict[int, jax.Array]
    graph_rows: dict[int, RealRows | None] | None
    stride: int = 1
    first: jax.Array | int = 0
    real_share: jax.Array | None = None

    @property
    def n_examples(self) -> int:
        """Number of examples in the batch, padding included."""
        return self.example_range.shape[0]

    @property
    def pads_positions(self) -> bool:
        """Whether some positions of a real example may be padding."""
        return bool(self.sequences) or self.real_share is not None

    @classmethod
    def from_batch(
        cls, batch: Mapping[str, Any], stride: int = 1, first: jax.Array | int = 0
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

        Raises:
          ValueError: If the batch is not of that kind.
        """
        check_batch(batch)
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
            if _is_token_sequence(inputs) and not (
                weights is None and inputs.shape == targets.shape
            ):
                # AlgoPerf pads token sequences with 0. Source and target of equal
                # length cannot be told apart: keep what is real in either.
                length, real_inputs = inputs.shape[1], jnp.asarray(inputs) != 0
                masks[length] = masks.get(length, real_inputs) | real_inputs
        if real is not None:
            masks = {length: mask & real[:, None] for length, mask in masks.items()}
        real_share = None
        if _is_padded_signal(inputs):
            real_share = (1.0 - jnp.asarray(inputs[1])).mean(1)
            if real is not None:
                real_share *= real
        examples = jnp.arange(targets.shape[0])
        return cls(examples, real, masks, None, stride, first, real_share)

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
        self, values: jax.Array, multiplicity: int = 1, by_example: bool = True
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
            matters = by_example or not self._every_row_counts
            check_time_major(leading, n, self.sequences, matters)
            values = values.swapaxes(0, 1)
        elif leading[0] % n != 0:
            # Not spread over the examples at all, such as a learnt query.
            values = values.reshape(leading[0], -1, *values.shape[-2:])
            return SharedTensor(values, None, None, leading[0], multiplicity)
        values = values.reshape(n, -1, *values.shape[-2:])
        n_positions = values.shape[1]
        keep = self._real_rows(n_positions)
        if self.stride == 1 or n_positions <= 1:
            return SharedTensor(values, keep, None, n, multiplicity)
        taken = (self.first + jnp.arange(0, n_positions, self.stride)) % n_positions
        values = jnp.take(values, taken, axis=1)
        row_weight: jax.Array | float = n_positions / values.shape[1]
        if keep is not None and keep.ndim == 2:
            n_real_rows, keep = keep.sum(), jnp.take(keep, taken, axis=1)
            row_weight = n_real_rows / jnp.maximum(keep.sum(), 1)
        return SharedTensor(values, keep, None, n, multiplicity, row_weight)

    @property
    def _every_row_counts(self) -> bool:
        """Whether no row is padding or left out."""
        all_are_real = self.real_examples is None
        return self.stride == 1 and not self.pads_positions and all_are_real

    def _real_rows(self, n_positions: int) -> jax.Array | None:
        """Returns which positions or examples are real, None if all are."""
        if self.real_share is None or n_positions in self.sequences:
            return self.sequences.get(n_positions, self.real_examples)
        # A frame that is real in part counts; rounding error is no such part.
        n_real = jnp.ceil(self.real_share * n_positions - 1e-3)
        return jnp.arange(n_positions) < n_real[:, None]


def _is_padded_signal(inputs: Any) -> bool:
    """Returns whether inputs are `(signal, padding)` as speech has in AlgoPerf."""
    if not isinstance(inputs, tuple | list) or len(inputs) != 2:
        return False
    signal, padding = inputs
    return (
        hasattr(padding, 'dtype')
        and hasattr(signal, 'shape')
        and padding.ndim == 2
        and jnp.issubdtype(padding.dtype, jnp.floating)
        and signal.shape[:2] == padding.shape
    )


def _is_token_sequence(value: Any) -> bool:
    return (
        hasattr(value, 'dtype')
        and value.ndim == 2
        # A column of labels is no sequence.
        and value.shape[1] > 1
        and not jnp.issubdtype(value.dtype, jnp.inexact)
    )
