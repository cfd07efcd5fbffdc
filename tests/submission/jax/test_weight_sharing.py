"""Rows, their examples and padding; the sums of both approximations."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from submission.jax.approximations import ExpandSums, FactorSums, ReduceSums
from submission.jax.weight_sharing import (
    BatchStructure,
    SharedTensor,
)
from submission.rows import AmbiguousRowsError

from .curvature import Graphs, double

pytestmark = pytest.mark.usefixtures('double_precision')

D = 3
CLOSE = {'rtol': 1e-12, 'atol': 1e-12}


def _share(batch, values, multiplicity=1):
    """Values of shape `[..., d]` in weight-sharing format, one group."""
    structure = BatchStructure.from_batch(batch)
    values = jnp.asarray(values)[..., None, :]
    return structure.to_weight_sharing_format(values, multiplicity)


def _by_example(shared):
    """The rows of each example that are not padding."""
    values = np.asarray(shared.values)[..., 0, :]
    keep = np.ones(values.shape[0], bool) if shared.keep is None else shared.keep
    keep = np.asarray(keep)
    if shared.example_index is not None:
        index = np.asarray(shared.example_index)
        return [values[(index == n) & keep] for n in range(shared.n_examples)]
    if keep.ndim == 1:
        keep = np.broadcast_to(keep[:, None], values.shape[:2])
    return [rows[kept] for rows, kept in zip(values, keep, strict=True)]


def _assert_examples(shared, expected):
    """Compares rows, sums and counts; padding examples have no rows."""
    expected = [np.reshape(rows, (-1, D)) for rows in expected]
    assert shared.n_examples == len(expected)
    for found, wanted in zip(_by_example(shared), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    rows = np.asarray(shared.rows())[:, 0]
    np.testing.assert_array_equal(rows[rows.any(1)], np.concatenate(expected))
    np.testing.assert_allclose(
        shared.sum_over_positions()[:, 0], [rows.sum(0) for rows in expected], **CLOSE
    )
    counts = [len(rows) * shared.multiplicity for rows in expected]
    assert shared.positions().tolist() == counts
    assert int(shared.row_count()) == sum(counts)


BATCH = {'inputs': np.zeros((4, D)), 'targets': np.zeros(4)}
NONE = np.zeros((0, D))


class TestExamplesAndPositions:
    @pytest.mark.parametrize('middle', [(), (1,), (2, 1, 3)])
    def test_any_number_of_middle_axes(self, middle):
        values = double(4, *middle, D)
        _assert_examples(_share(BATCH, values), values.reshape(4, -1, D))

    def test_time_major(self):
        values = double(5, 4, D)
        _assert_examples(_share(BATCH, values), values.swapaxes(0, 1))

    def test_examples_first_where_both_axes_fit(self):
        values = double(4, 4, D)
        _assert_examples(_share(BATCH, values), values)

    def test_positions_folded_into_the_first_axis(self):
        values = double(12, 2, D)
        _assert_examples(_share(BATCH, values), values.reshape(4, 6, D))

    @pytest.mark.parametrize('leading', [3, 5])
    def test_rows_that_belong_to_no_example(self, leading):
        """Such as a learnt query: each is an example of its own."""
        values = double(leading, 2, D)
        weighted = {**BATCH, 'weights': np.array([1.0, 1.0, 0.0, 0.0])}
        for batch in (BATCH, weighted):
            _assert_examples(_share(batch, values), values)

    def test_a_single_vector(self):
        values = double(D)
        _assert_examples(_share(BATCH, values), values[None, None])

    def test_multiplicity_counts_positions(self):
        shared = _share(BATCH, double(4, 1, D), multiplicity=7)
        assert shared.positions().tolist() == [7] * 4
        assert int(shared.row_count()) == 28

    @pytest.mark.parametrize(
        'weights',
        [
            np.array([1.0, 1.0, 0.0, 0.0]),
            np.array([0.0, 0.5, 0.0, 1.0]),
            np.array([False, True, True, False]),
            np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]),
        ],
        ids=['last', 'any', 'boolean', 'several outputs'],
    )
    def test_examples_without_weight_are_padding(self, weights):
        values = double(4, 5, D)
        real = (weights != 0).reshape(4, -1).any(1)
        expected = [
            rows if kept else NONE for rows, kept in zip(values, real, strict=True)
        ]
        _assert_examples(_share({**BATCH, 'weights': weights}, values), expected)

    def test_padding_that_is_not_a_number(self):
        values = double(4, 5, D)
        weights = np.array([1.0, 0.0, 1.0, 1.0])
        values[1] = np.nan
        expected = [values[0], NONE, *values[2:]]
        _assert_examples(_share({**BATCH, 'weights': weights}, values), expected)

    def test_nothing_but_padding(self):
        shared = _share({**BATCH, 'weights': np.zeros(4)}, double(4, 5, D))
        _assert_examples(shared, [NONE] * 4)

    def test_targets_with_paddings(self):
        """Speech workloads pass pairs; the first gives the number of examples."""
        batch = {'inputs': np.zeros((4, 9)), 'targets': (np.zeros((4, 6)),) * 2}
        values = double(4, 9, D)
        _assert_examples(_share(batch, values), values)

    def test_within_a_compiled_function(self):
        """The structure passes in and out of it, as from a forward to a backward."""
        batch = {**BATCH, 'weights': np.array([1.0, 0.0, 1.0, 1.0])}
        structure = jax.jit(BatchStructure.from_batch)(batch)
        values = double(4, 5, D)
        shared = structure.to_weight_sharing_format(values[..., None, :])
        _assert_examples(shared, [values[0], NONE, *values[2:]])


class TestTokens:
    """Padded positions of sequences are left out."""

    targets = np.array([[5, 2, 0, 0], [3, 3, 3, 0], [0, 0, 0, 0]])
    weights = (targets != 0).astype(float)
    inputs = np.array([[7, 1, 1, 4, 0], [2, 0, 0, 0, 0], [0, 0, 0, 0, 0]])

    def _batch(self, inputs=inputs):
        return {'inputs': inputs, 'targets': self.targets, 'weights': self.weights}

    def test_target_positions(self):
        values = double(3, 4, D)
        shared = _share(self._batch(), values)
        _assert_examples(shared, [values[0, :2], values[1, :3], NONE])

    def test_source_positions(self):
        values = double(3, 5, D)
        shared = _share(self._batch(), values)
        _assert_examples(shared, [values[0, :4], values[1, :1], NONE])

    def test_time_major(self):
        values = double(4, 3, D)
        shared = _share(self._batch(), values)
        _assert_examples(shared, [values[:2, 0], values[:3, 1], NONE])

    def test_folded(self):
        values = double(12, D)
        shared = _share(self._batch(), values)
        _assert_examples(shared, [values[:2], values[4:7], NONE])

    def test_equal_lengths_keep_what_is_real_in_either(self):
        inputs = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
        values = double(3, 4, D)
        shared = _share(self._batch(inputs), values)
        _assert_examples(shared, [values[0, :3], values[1, :3], NONE])

    def test_other_lengths_drop_padding_examples_only(self):
        values = double(3, 6, D)
        _assert_examples(_share(self._batch(), values), [*values[:2], NONE])

    def test_source_tokens_alone(self):
        """Without weights, the zeros of the inputs are still padding."""
        batch = {'inputs': self.inputs[:2], 'targets': self.targets[:2]}
        values = double(2, 5, D)
        _assert_examples(_share(batch, values), [values[0, :4], values[1, :1]])


def _graph_batch(n_node, n_edge, weights=None, spare_edges=0):
    graphs = Graphs(
        np.zeros((sum(n_node), 2)),
        None if sum(n_edge) == 0 else np.zeros((sum(n_edge), 2)),
        np.zeros(sum(n_edge) + spare_edges, int),
        np.array(n_node),
        np.array(n_edge),
    )
    batch = {'inputs': graphs, 'targets': np.zeros((len(n_node), 2))}
    if weights is not None:
        batch['weights'] = np.array(weights)
    return batch

    def test_every_token_of_a_language_model_counts(self):
        """A target for every input and no weights: 0 is a token like any other."""
        values = double(2, 4, D)
        batch = {'inputs': self.inputs[:2, :4], 'targets': self.targets[:2]}
        _assert_examples(_share(batch, values), values)

    def test_a_column_is_no_sequence(self):
        """Of the labels of single values, 0 is one."""
        column = np.array([[0], [1], [0], [2]])
        values = double(4, D)
        batch = {'inputs': column, 'targets': column, 'weights': np.ones(4)}
        _assert_examples(_share(batch, values), values[:, None])


SIGNALS = {
    'inputs': (
        np.zeros((3, 8)),
        np.array([[0.0] * 8, [0.0] * 4 + [1.0] * 4, [1.0] * 8]),
    ),
    'targets': (np.zeros((3, 5)), np.zeros((3, 5))),
    'weights': np.array([1.0, 1.0, 0.0]),
}


class TestSignals:
    """Padded audio comes with its padding; layers see it at other lengths."""

    @pytest.mark.parametrize(('length', 'real'), [(8, 4), (4, 2), (5, 3), (1, 1)])
    def test_as_large_a_share_of_any_length(self, length, real):
        values = double(3, length, D)
        expected = [values[0], values[1, :real], NONE]
        _assert_examples(_share(SIGNALS, values), expected)

    def test_several_axes_of_positions(self):
        """Time comes first, as in the output of a convolution over time and pitch."""
        values = double(3, 4, 6, D)
        _assert_examples(_share(SIGNALS, values), [values[0], values[1, :2], NONE])

    def test_time_major(self):
        values = double(4, 3, D)
        expected = [values[:, 0], values[:2, 1], NONE]
        _assert_examples(_share(SIGNALS, values), expected)

    def test_a_third_of_the_positions(self):
        structure = BatchStructure.from_batch(SIGNALS, stride=3)
        values = double(3, 8, D)
        shared = structure.to_weight_sharing_format(values[..., None, :])
        _assert_examples(shared, [values[0, ::3], values[1, :4:3], NONE])
        assert float(shared.row_weight) == 12 / 5

    def test_transcripts_without_weights(self):
        """Labels are numbers; AlgoPerf has no weights in training batches."""
        targets = np.ones((3, 5), int)
        batch = {'inputs': SIGNALS['inputs'], 'targets': (targets, np.zeros((3, 5)))}
        values = double(3, 4, D)
        _assert_examples(_share(batch, values), [values[0], values[1, :2], NONE])

    def test_a_share_that_is_not_exact(self):
        """0.3 of 10 are 3 positions, whatever rounding says."""
        padding = np.array([[0.0] * 3 + [1.0] * 7] * 2)
        batch = {'inputs': (np.zeros((2, 10)), padding), 'targets': np.zeros(2)}
        values = double(2, 20, D)
        _assert_examples(_share(batch, values), values[:, :6])

    @pytest.mark.parametrize(
        'inputs', [(np.zeros((3, 8)),) * 3, (np.zeros((3, 8)), np.zeros(3))]
    )
    def test_other_pairs_are_none(self, inputs):
        values = double(3, 4, D)
        batch = {**SIGNALS, 'inputs': inputs}
        _assert_examples(_share(batch, values), [*values[:2], NONE])


class TestEitherAxis:
    """Shapes that may be time-major, or have positions folded into the first axis."""

    values = double(8, 4, D)

    def test_it_matters(self):
        with pytest.raises(AmbiguousRowsError, match=r'\(8, 4\).*batch of 4 examples'):
            _share(BATCH, self.values)

    def test_every_row_counts_and_none_is_reduced(self):
        structure = BatchStructure.from_batch(BATCH)
        shared = structure.to_weight_sharing_format(
            self.values[..., None, :], by_example=False
        )
        expected = self.values.swapaxes(0, 1).reshape(-1, D)
        np.testing.assert_array_equal(shared.rows()[:, 0], expected)

    @pytest.mark.parametrize('stride', [1, 2])
    def test_rows_to_leave_out(self, stride):
        batch = BATCH if stride > 1 else {**BATCH, 'weights': np.eye(4)[0]}
        structure = BatchStructure.from_batch(batch, stride)
        with pytest.raises(AmbiguousRowsError):
            structure.to_weight_sharing_format(
                self.values[..., None, :], by_example=False
            )

    def test_a_known_length_tells(self):
        weights = np.ones((4, 8))
        weights[1, 5:] = 0
        targets = np.ones((4, 8), int)
        batch = {'inputs': np.zeros(4), 'targets': targets, 'weights': weights}
        expected = list(self.values.swapaxes(0, 1))
        expected[1] = expected[1][:5]
        _assert_examples(_share(batch, self.values), expected)


@pytest.mark.parametrize(
    ('batch', 'found'),
    [
        ({'input_ids': 1, 'labels': 2}, r"\['input_ids', 'labels'\]"),
        ((1, 2), 'tuple'),
    ],
)
def test_a_batch_of_another_kind(batch, found):
    with pytest.raises(ValueError, match=f"batch\\['inputs'\\].*got {found}"):
        BatchStructure.from_batch(batch)


class TestGraphRows:
    n_node, n_edge = (2, 3, 1, 4, 0), (4, 0, 2, 3, 0)

    def _batch(self, weights=None):
        return _graph_batch(self.n_node, self.n_edge, weights)

    def test_padding_by_counts(self):
        """The last graph with nodes and all after it, as jraph pads."""
        nodes, edges, graphs = double(10, D), double(9, D), double(5, D)
        batch = self._batch()
        _assert_examples(
            _share(batch, nodes), [nodes[:2], nodes[2:5], nodes[5:6], NONE, NONE]
        )
        _assert_examples(
            _share(batch, edges), [edges[:4], NONE, edges[4:6], NONE, NONE]
        )
        _assert_examples(_share(batch, graphs), [*graphs[:3], NONE, NONE])

    def test_graphs_without_labels_are_padding(self):
        batch = self._batch([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0] * 2, [0.0] * 2])
        nodes, edges = double(10, D), double(9, D)
        _assert_examples(
            _share(batch, nodes), [nodes[:2], NONE, nodes[5:6], NONE, NONE]
        )
        _assert_examples(
            _share(batch, edges), [edges[:4], NONE, edges[4:6], NONE, NONE]
        )

    def test_padding_of_several_shards(self):
        """AlgoPerf pads the graphs of each device by themselves and joins them."""
        batch = _graph_batch(
            (2, 5, 0, 3, 1, 3), (1, 6, 0, 2, 2, 4), [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]
        )
        nodes, edges = double(14, D), double(15, D)
        _assert_examples(
            _share(batch, nodes),
            [nodes[:2], NONE, NONE, nodes[7:10], nodes[10:11], NONE],
        )
        _assert_examples(
            _share(batch, edges), [edges[:1], NONE, NONE, edges[7:9], edges[9:11], NONE]
        )

    def test_graphs_without_any_edge(self):
        batch = _graph_batch((2, 3, 4), (0, 0, 0), [1.0, 1.0, 0.0])
        nodes = double(9, D)
        _assert_examples(_share(batch, nodes), [nodes[:2], nodes[2:5], NONE])

    def test_rows_beyond_the_counts_are_padding(self):
        """Such rows belong to no graph; the last, which they would fall to, is none."""
        batch = _graph_batch((2, 3, 4), (2, 1, 0), [1.0, 1.0, 0.0], spare_edges=5)
        edges = double(8, D)
        _assert_examples(_share(batch, edges), [edges[:2], edges[2:3], NONE])

    def test_rows_with_a_middle_axis(self):
        """Rows are counted over all leading axes."""
        nodes = double(2, 5, D)
        flat = nodes.reshape(10, D)
        shared = _share(self._batch(), nodes)
        _assert_examples(shared, [flat[:2], flat[2:5], flat[5:6], NONE, NONE])

    def test_unknown_number_of_rows(self):
        with pytest.raises(AmbiguousRowsError, match=r'7 rows.*5, 10, 9'):
            _share(self._batch(), double(7, D))

    def test_as_many_nodes_as_edges(self):
        batch = _graph_batch((2, 3, 1), (3, 2, 1))
        with pytest.raises(AmbiguousRowsError, match='6 rows'):
            _share(batch, double(6, D))
        graphs = double(3, D)
        _assert_examples(_share(batch, graphs), [*graphs[:2], NONE])

    def test_as_many_nodes_as_graphs(self):
        batch = _graph_batch((1, 1, 1), (3, 2, 1))
        with pytest.raises(AmbiguousRowsError):
            _share(batch, double(3, D))
        edges = double(6, D)
        _assert_examples(_share(batch, edges), [edges[:3], edges[3:5], NONE])

    def test_a_single_vector(self):
        with pytest.raises(AmbiguousRowsError):
            _share(self._batch(), double(D))


N, R = 4, 5


def _shared(values, keep=None, index=None, multiplicity=1):
    return SharedTensor(
        jnp.asarray(values)[..., None, :],
        None if keep is None else jnp.asarray(keep),
        None if index is None else jnp.asarray(index),
        N,
        multiplicity,
    )


def _layer(bias, d_out=2):
    return types.SimpleNamespace(
        has_bias=bias, groups=1, input_dim=D + bias, output_dim=d_out
    )


def _sums(sums, layer, *applications):
    """Adds applications up as autodiff does."""
    accumulated = sums.accumulators(layer, N, jnp.dtype('float64'))
    for inputs, gradients in applications:
        added = sums.application(layer, inputs, gradients, gradients.values.dtype)
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (accumulated, added)]
        assert shapes[0] == shapes[1]
        accumulated = jax.tree.map(jnp.add, accumulated, added)
    return sums.factor_sums(layer, accumulated)


def _outer_sum(rows):
    return rows.T @ rows


def _with_one(rows):
    return np.concatenate([rows, np.ones((*rows.shape[:-1], 1))], -1)


@pytest.mark.parametrize('bias', [True, False], ids=['bias', 'no bias'])
class TestSums:
    """Against sums written out."""

    inputs = double(N, R, D)
    gradients = double(N, R, 2, seed=1)

    def _inputs(self, bias, inputs=inputs):
        return _with_one(inputs) if bias else inputs

    def _check(self, found, inputs, count, gradients):
        np.testing.assert_allclose(found.inputs[0], inputs, **CLOSE)
        np.testing.assert_allclose(found.gradients[0], gradients, **CLOSE)
        assert float(found.input_count) == count

    def _application(self):
        return _shared(self.inputs), _shared(self.gradients)

    def test_expand(self, bias):
        self._check(
            _sums(ExpandSums(), _layer(bias), self._application()),
            _outer_sum(self._inputs(bias).reshape(N * R, -1)),
            N * R,
            _outer_sum(self.gradients.reshape(N * R, -1)),
        )

    @pytest.mark.parametrize(
        ('normalisation', 'inputs_by', 'gradients_by'),
        [('mean_inputs', R, 1), ('sum_inputs', 1, R)],
    )
    def test_reduce(self, bias, normalisation, inputs_by, gradients_by):
        self._check(
            _sums(ReduceSums(normalisation), _layer(bias), self._application()),
            _outer_sum(self._inputs(bias).sum(1) / inputs_by),
            N,
            _outer_sum(self.gradients.sum(1) / gradients_by),
        )

    def test_reduce_of_summed_rows(self, bias):
        """A row may stand for several positions, as a convolution's does."""
        sums, layer = ReduceSums('mean_inputs'), _layer(bias)
        summed = _shared(self.inputs.sum(1, keepdims=True), multiplicity=R)
        whole = _sums(sums, layer, self._application())
        found = _sums(sums, layer, (summed, _shared(self.gradients)))
        np.testing.assert_allclose(found.inputs, whole.inputs, **CLOSE)

    @pytest.mark.parametrize('normalisation', ['mean_inputs', 'sum_inputs'])
    def test_reduce_of_unequal_examples(self, bias, normalisation):
        """The third example has no row, and the last row is padding."""
        index, keep = np.array([0, 1, 1, 3, 3, 3, 3]), np.arange(7) < 6
        rows, gradients = double(7, D), double(7, 2, seed=1)
        found = _sums(
            ReduceSums(normalisation),
            _layer(bias),
            (_shared(rows, keep, index), _shared(gradients, keep, index)),
        )
        counts = np.array([1, 2, 1, 3])[:, None]
        of = [(index == n) & keep for n in range(N)]
        inputs = np.stack([self._inputs(bias, rows)[rows_n].sum(0) for rows_n in of])
        summed = np.stack([gradients[rows_n].sum(0) for rows_n in of])
        if normalisation == 'mean_inputs':
            inputs = inputs / counts
        else:
            summed = summed / counts
        self._check(found, _outer_sum(inputs), 3, _outer_sum(summed))

    def test_several_applications_are_more_positions(self, bias):
        layer = _layer(bias)
        for sums in (ExpandSums(), ReduceSums('mean_inputs'), ReduceSums('sum_inputs')):
            expected = _sums(sums, layer, self._application())
            found = _sums(
                sums,
                layer,
                *(
                    (_shared(self.inputs[:, part]), _shared(self.gradients[:, part]))
                    for part in (slice(0, 2), slice(2, R))
                ),
            )
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, other, **CLOSE)

    def test_no_examples(self, bias):
        """Padding alone gives no factor, and no division by zero."""
        nothing = np.zeros(N, bool)
        application = _shared(self.inputs, nothing), _shared(self.gradients, nothing)
        for sums in (ExpandSums(), ReduceSums('mean_inputs'), ReduceSums('sum_inputs')):
            found = _sums(sums, _layer(bias), application)
            assert found.input_count == 0
            factor_a, factor_b = found.kronecker_factors(1.0)
            assert not factor_a.any()
            assert not factor_b.any()


def test_groups_are_blocks_of_their_own():
    inputs, gradients = double(N, R, 2, D), double(N, R, 2, 4, seed=1)
    layer = types.SimpleNamespace(
        has_bias=True, groups=2, input_dim=D + 1, output_dim=4
    )
    for sums in (ExpandSums(), ReduceSums('mean_inputs')):
        together = _sums(
            sums,
            layer,
            [SharedTensor(jnp.asarray(v), None, None, N) for v in (inputs, gradients)],
        )
        for group in range(2):
            alone = _sums(
                sums,
                _layer(True, 4),
                (_shared(inputs[:, :, group]), _shared(gradients[:, :, group])),
            )
            for name in ('inputs', 'gradients'):
                np.testing.assert_allclose(
                    getattr(together, name)[group], getattr(alone, name)[0], **CLOSE
                )


def test_kronecker_factors():
    eye = jnp.eye(2)[None]
    sums = FactorSums(12 * eye, jnp.array(4.0), 6 * eye)
    factor_a, factor_b = sums.kronecker_factors(3.0)
    np.testing.assert_allclose(factor_a, 3 * eye)
    np.testing.assert_allclose(factor_b, 2 * eye)
    _, factor_b = sums.kronecker_factors(jnp.array(3.0), jnp.array(3.0))
    np.testing.assert_allclose(factor_b, 18 * eye)


class TestCancellation:
    """Gradients that sum to zero over positions, as those of attention keys do."""

    def _factor_b(self, gradients, computed_in=None):
        gradients = jnp.asarray(gradients)
        inputs = jnp.ones((*gradients.shape[:-1], D), gradients.dtype)
        sums, layer = ReduceSums('mean_inputs'), _layer(False, 3)
        tensors = [
            SharedTensor(v[..., None, :], None, None, N) for v in (inputs, gradients)
        ]
        added = sums.application(layer, *tensors, computed_in or gradients.dtype)
        return sums.factor_sums(layer, added).gradients[0]

    @pytest.mark.parametrize('dtype', ['float32', 'float64'])
    def test_rounding_errors_are_no_curvature(self, dtype):
        gradients = double(N, 49, 3).astype(dtype)
        gradients -= gradients.mean(1, keepdims=True)
        assert np.abs(gradients.sum(1)).max() > 0
        assert not self._factor_b(gradients).any()

    @pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
    def test_rounding_errors_of_16_bits(self, dtype):
        """They are summed in single precision, where they are no rounding errors."""
        gradients = double(N, 49, 3)
        gradients -= gradients.mean(1, keepdims=True)
        rounded = gradients.astype(dtype).astype('float32')
        assert self._factor_b(rounded).all()
        assert not self._factor_b(rounded, dtype).any()
        # A ratio of squares of about 0.5, well above what is rounded off.
        partly = (gradients + 0.1).astype(dtype).astype('float32')
        assert self._factor_b(partly, dtype).all()

    def test_gradients_that_only_shrink_count(self):
        gradients = double(N, 49, 3)
        gradients -= (1 - 1e-6) * gradients.mean(1, keepdims=True)
        summed = gradients.sum(1)
        np.testing.assert_allclose(
            self._factor_b(gradients), summed.T @ summed, rtol=1e-8
        )
