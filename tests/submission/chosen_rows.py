"""Batches with their rows one by one, and factors by loops over those taken.

It is in NumPy and shared by both frameworks: no code of the submission decides here
which rows are taken.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

D_IN, D_OUT = 3, 2


def numbers(*shape, seed=0):
    """Standard normal numbers in float64."""
    return np.random.default_rng(seed).standard_normal(shape)


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer's values in a batch.

    Attributes:
      batch: The batch but for graphs, which each framework has its own type for.
      leading: Shape of the layer's inputs and output gradients but for features.
      examples: The example of each row in the order of memory.
      positions: The position of each row within its example, padding counted.
      real: Whether each row is real.
      n_node: For graphs, the number of nodes of each.
      n_edge: For graphs, the number of edges of each.
    """

    batch: dict[str, Any]
    leading: tuple[int, ...]
    examples: np.ndarray
    positions: np.ndarray
    real: np.ndarray
    n_node: tuple[int, ...] | None = None
    n_edge: tuple[int, ...] | None = None

    def values(self):
        """The layer's inputs and output gradients; padding is far off."""
        inputs = numbers(*self.leading, D_IN)
        gradients = numbers(*self.leading, D_OUT, seed=1)
        padding = ~self.real.reshape(self.leading)
        inputs[padding], gradients[padding] = 1e3, 1e3
        return inputs, gradients

    def full_batch(self, make_graphs: Callable[..., Any]):
        """The batch with graphs, if it has any."""
        if self.n_node is None:
            return self.batch
        return {**self.batch, 'inputs': make_graphs(self.n_node, self.n_edge)}


def _dense(weights, positions, time_major=False, folded=False):
    weights = np.array(weights)
    n = len(weights)
    examples, places = np.indices((n, positions))
    if time_major:
        examples, places = examples.T, places.T
    leading = (n * positions,) if folded else examples.shape
    examples = examples.ravel()
    batch = {'inputs': np.zeros((n, 4)), 'targets': np.zeros(n), 'weights': weights}
    return Case(batch, leading, examples, places.ravel(), weights[examples] != 0)


def _tokens(lengths, longest):
    """Sequences; one of length zero is padding."""
    real = np.arange(longest) < np.array(lengths)[:, None]
    examples, places = np.indices(real.shape)
    batch = {
        'inputs': np.zeros((len(lengths), 4)),
        'targets': real.astype(np.int64),
        'weights': real.astype(np.float64),
    }
    return Case(batch, real.shape, examples.ravel(), places.ravel(), real.ravel())


def _graphs(kind, n_node, n_edge, weights=None):
    n = len(n_node)
    rows = {'nodes': n_node, 'edges': n_edge, 'graphs': (1,) * n}[kind]
    examples = np.repeat(np.arange(n), rows)
    batch = {'targets': np.zeros((n, 2))}
    if weights is None:
        is_real = np.arange(n) < n - 1
    else:
        batch['weights'] = np.array(weights)
        is_real = batch['weights'] != 0
    places = np.zeros_like(examples)
    return Case(
        batch, examples.shape, examples, places, is_real[examples], n_node, n_edge
    )


_NODES, _EDGES = (2, 3, 1, 4, 2, 3, 6), (4, 0, 2, 3, 2, 1, 5)
_WEIGHTS = (1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0)
CASES = {
    'images': _dense([1.0] * 6, 5),
    'images, padded': _dense([1.0] * 5 + [0.0] * 3, 5),
    'images, padding anywhere': _dense([0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.5], 5),
    'one vector each': _dense([1.0] * 7, 1),
    'time-major': _dense([1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0], 4, time_major=True),
    'folded': _dense([1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0], 4, folded=True),
    'tokens': _tokens([2, 4, 1, 3, 4, 2], 5),
    'tokens, padded': _tokens([2, 0, 4, 1, 0, 3, 0], 5),
    'nothing taken is real': _graphs('edges', (1, 2, 2, 1), (4, 0, 2, 3), (0, 1, 1, 0)),
    'nodes': _graphs('nodes', _NODES, _EDGES),
    'edges': _graphs('edges', _NODES, _EDGES),
    'graphs': _graphs('graphs', _NODES, _EDGES),
    'nodes, padding anywhere': _graphs('nodes', _NODES, _EDGES, _WEIGHTS),
    'edges, padding anywhere': _graphs('edges', _NODES, _EDGES, _WEIGHTS),
}
STRIDES = (1, 2, 3, 100)
# The numbers of the update, the first of which takes the first position.
UPDATES = (0, 4)


def factors(case, stride, update, loss_terms):
    """Returns K-FAC-expand's A and B, the bias counted, from the rows to be taken."""
    inputs, gradients = case.values()
    inputs = inputs.reshape(-1, D_IN)
    gradients = gradients.reshape(-1, D_OUT)
    inputs = np.concatenate([inputs, np.ones((len(inputs), 1))], -1)
    if case.n_node is None:
        n_positions = max(case.positions) + 1
        chosen = [
            (update + k) % n_positions for k in range(n_positions) if k % stride == 0
        ]
        taken = np.isin(case.positions, chosen)
    else:
        n_graphs, n_rows = len(case.n_node), len(inputs)
        n_taken = n_rows if n_rows == n_graphs else math.ceil(n_rows / stride)
        taken = np.arange(n_rows) < n_taken
    rows = np.flatnonzero(case.real & taken)
    factor_a = np.zeros((D_IN + 1, D_IN + 1))
    factor_b = np.zeros((D_OUT, D_OUT))
    for row in rows:
        factor_a += np.outer(inputs[row], inputs[row]) / len(rows)
        weight = case.real.sum() / len(rows) / loss_terms
        factor_b += np.outer(gradients[row], gradients[row]) * weight
    return factor_a, factor_b
