"""Rows, their examples and padding; the sums of both approximations."""

import itertools
from typing import NamedTuple

import pytest
import torch

from submission.pytorch.approximations import ExpandSums, FactorSums, ReduceSums
from submission.pytorch.weight_sharing import (
    BatchStructure,
    Segments,
    SharedTensor,
)
from submission.rows import AmbiguousRowsError

from .curvature import double

D = 3


class Graphs(NamedTuple):
    """Only the counts are read."""

    n_node: torch.Tensor
    n_edge: torch.Tensor


def _graph_batch(n_node, n_edge, weights=None):
    batch = {'inputs': Graphs(torch.tensor(n_node), torch.tensor(n_edge))}
    batch['targets'] = torch.zeros(len(n_node), 2)
    if weights is not None:
        batch['weights'] = torch.tensor(weights)
    return batch


def _share(batch, values, multiplicity=1):
    """Values of shape `[..., d]` in weight-sharing format, one group."""
    structure = BatchStructure.from_batch(batch)
    return structure.to_weight_sharing_format(values.unsqueeze(-2), multiplicity)


def _by_example(shared):
    """The rows of each example."""
    if shared.segments is None:
        return [rows.squeeze(1) for rows in shared.values]
    bounds = [*shared.segments.first_rows.tolist(), len(shared.values)]
    return [
        shared.values[first:stop].squeeze(1)
        for first, stop in itertools.pairwise(bounds)
    ]


def _assert_examples(shared, expected):
    assert shared.n_examples == len(expected)
    for found, wanted in zip(_by_example(shared), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    torch.testing.assert_close(
        shared.rows().squeeze(1), torch.cat(list(expected)), rtol=0, atol=0
    )
    torch.testing.assert_close(
        shared.sum_over_positions().squeeze(1),
        torch.stack([rows.sum(0) for rows in expected]),
    )
    counts = [len(rows) * shared.multiplicity for rows in expected]
    positions = shared.positions()
    # A single number where all have as many.
    assert torch.as_tensor(positions).expand(len(counts)).tolist() == counts
    assert isinstance(positions, int) == (shared.segments is None)


BATCH = {'inputs': torch.zeros(4, D), 'targets': torch.zeros(4)}


class TestExamplesAndPositions:
    @pytest.mark.parametrize('middle', [(), (1,), (5,), (2, 3), (2, 1, 3)])
    def test_any_number_of_middle_axes(self, middle):
        values = double(4, *middle, D)
        _assert_examples(_share(BATCH, values), values.reshape(4, -1, D))

    def test_time_major(self):
        values = double(5, 4, D)
        _assert_examples(_share(BATCH, values), values.transpose(0, 1))

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
        _assert_examples(_share(BATCH, values), values)

    def test_a_single_vector(self):
        values = double(D)
        _assert_examples(_share(BATCH, values), values[None, None])

    def test_multiplicity_counts_positions(self):
        shared = _share(BATCH, double(4, 1, D), multiplicity=7)
        assert shared.positions() == 7

    @pytest.mark.parametrize(
        'weights',
        [
            torch.tensor([1.0, 1.0, 0.0, 0.0]),
            torch.tensor([0.0, 0.5, 0.0, 1.0]),
            torch.tensor([False, True, True, False]),
            torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]),
        ],
        ids=['last', 'any', 'boolean', 'several outputs'],
    )
    def test_examples_without_weight_are_padding(self, weights):
        values = double(4, 5, D)
        real = weights.bool().reshape(4, -1).any(1)
        _assert_examples(_share({**BATCH, 'weights': weights}, values), values[real])

    def test_nothing_but_padding(self):
        shared = _share({**BATCH, 'weights': torch.zeros(4)}, double(4, 5, D))
        assert shared.n_examples == 0
        assert shared.rows().shape == (0, 1, D)

    def test_targets_with_paddings(self):
        """Speech workloads pass pairs; the first gives the number of examples."""
        batch = {'inputs': torch.zeros(4, 9), 'targets': (torch.zeros(4, 6),) * 2}
        values = double(4, 9, D)
        _assert_examples(_share(batch, values), values)


class TestTokens:
    """Padded positions of sequences are left out."""

    targets = torch.tensor([[5, 2, 0, 0], [3, 3, 3, 0], [0, 0, 0, 0]])
    weights = (targets != 0).float()
    inputs = torch.tensor([[7, 1, 1, 4, 0], [2, 0, 0, 0, 0], [0, 0, 0, 0, 0]])

    def _batch(self, inputs=inputs):
        return {'inputs': inputs, 'targets': self.targets, 'weights': self.weights}

    def test_target_positions(self):
        values = double(3, 4, D)
        shared = _share(self._batch(), values)
        _assert_examples(shared, [values[0, :2], values[1, :3]])

    def test_source_positions(self):
        values = double(3, 5, D)
        shared = _share(self._batch(), values)
        _assert_examples(shared, [values[0, :4], values[1, :1]])

    def test_time_major(self):
        values = double(4, 3, D)
        shared = _share(self._batch(), values)
        _assert_examples(shared, [values[:2, 0], values[:3, 1]])

    def test_folded(self):
        values = double(12, D)
        shared = _share(self._batch(), values)
        _assert_examples(shared, [values[:2], values[4:7]])

    def test_equal_lengths_keep_what_is_real_in_either(self):
        inputs = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
        values = double(3, 4, D)
        shared = _share(self._batch(inputs), values)
        _assert_examples(shared, [values[0, :3], values[1, :3]])

    def test_other_lengths_drop_padding_examples_only(self):
        values = double(3, 6, D)
        _assert_examples(_share(self._batch(), values), values[:2])

    def test_source_tokens_alone(self):
        """Without weights, the zeros of the inputs are still padding."""
        batch = {'inputs': self.inputs[:2], 'targets': self.targets[:2]}
        values = double(2, 5, D)
        _assert_examples(_share(batch, values), [values[0, :4], values[1, :1]])

    def test_every_token_of_a_language_model_counts(self):
        """A target for every input and no weights: 0 is a token like any other."""
        inputs = self.inputs[:2, :4]
        values = double(2, 4, D)
        batch = {'inputs': inputs, 'targets': self.targets[:2]}
        _assert_examples(_share(batch, values), values)

    def test_a_column_is_no_sequence(self):
        """Of the labels of single values, 0 is one."""
        column = torch.tensor([[0], [1], [0], [2]])
        values = double(4, D)
        batch = {'inputs': column, 'targets': column, 'weights': torch.ones(4)}
        _assert_examples(_share(batch, values), values[:, None])


SIGNALS = {
    'inputs': (
        torch.zeros(3, 8),
        torch.tensor([[0.0] * 8, [0.0] * 4 + [1.0] * 4, [1.0] * 8]),
    ),
    'targets': (torch.zeros(3, 5), torch.zeros(3, 5)),
    'weights': torch.tensor([1.0, 1.0, 0.0]),
}


class TestSignals:
    """Padded audio comes with its padding; layers see it at other lengths."""

    @pytest.mark.parametrize(('length', 'real'), [(8, 4), (4, 2), (5, 3), (1, 1)])
    def test_as_large_a_share_of_any_length(self, length, real):
        values = double(3, length, D)
        _assert_examples(_share(SIGNALS, values), [values[0], values[1, :real]])

    def test_several_axes_of_positions(self):
        """Time comes first, as in the output of a convolution over time and pitch."""
        values = double(3, 4, 6, D)
        expected = [values[0].flatten(0, 1), values[1, :2].flatten(0, 1)]
        _assert_examples(_share(SIGNALS, values), expected)

    def test_time_major(self):
        values = double(4, 3, D)
        _assert_examples(_share(SIGNALS, values), [values[:, 0], values[:2, 1]])

    def test_a_third_of_the_positions(self):
        structure = BatchStructure.from_batch(SIGNALS, stride=3)
        values = double(3, 8, D)
        shared = structure.to_weight_sharing_format(values.unsqueeze(-2))
        expected = [values[0, ::3], values[1, :4:3]]
        torch.testing.assert_close(shared.rows().squeeze(1), torch.cat(expected))
        assert shared.row_weight == 12 / 5

    def test_transcripts_without_weights(self):
        """Labels are numbers; AlgoPerf has no weights in training batches."""
        targets = torch.ones(3, 5, dtype=torch.long)
        batch = {'inputs': SIGNALS['inputs'], 'targets': (targets, torch.zeros(3, 5))}
        values = double(3, 4, D)
        shared = _share(batch, values)
        expected = torch.cat([values[0], values[1, :2]])
        torch.testing.assert_close(shared.rows().squeeze(1), expected)

    def test_a_share_that_is_not_exact(self):
        """0.3 of 10 are 3 positions, whatever rounding says."""
        padding = torch.tensor([[0.0] * 3 + [1.0] * 7] * 2)
        batch = {'inputs': (torch.zeros(2, 10), padding), 'targets': torch.zeros(2)}
        values = double(2, 20, D)
        _assert_examples(_share(batch, values), values[:, :6])

    @pytest.mark.parametrize(
        'inputs', [(torch.zeros(3, 8),) * 3, (torch.zeros(3, 8), torch.zeros(3))]
    )
    def test_other_pairs_are_none(self, inputs):
        values = double(3, 4, D)
        _assert_examples(_share({**SIGNALS, 'inputs': inputs}, values), values[:2])


class TestEitherAxis:
    """Shapes that may be time-major, or have positions folded into the first axis."""

    values = double(8, 4, D)

    def test_it_matters(self):
        with pytest.raises(AmbiguousRowsError, match=r'\(8, 4\).*batch of 4 examples'):
            _share(BATCH, self.values)

    def test_every_row_counts_and_none_is_reduced(self):
        structure = BatchStructure.from_batch(BATCH)
        shared = structure.to_weight_sharing_format(
            self.values.unsqueeze(-2), by_example=False
        )
        rows = shared.rows().squeeze(1)
        torch.testing.assert_close(rows, self.values.transpose(0, 1).flatten(0, 1))

    @pytest.mark.parametrize('stride', [1, 2])
    def test_rows_to_leave_out(self, stride):
        batch = BATCH if stride > 1 else {**BATCH, 'weights': torch.eye(4)[0]}
        structure = BatchStructure.from_batch(batch, stride)
        with pytest.raises(AmbiguousRowsError):
            structure.to_weight_sharing_format(
                self.values.unsqueeze(-2), by_example=False
            )

    def test_a_known_length_tells(self):
        weights = torch.ones(4, 8)
        weights[1, 5:] = 0
        targets = torch.ones(4, 8, dtype=torch.long)
        batch = {'inputs': torch.zeros(4), 'targets': targets, 'weights': weights}
        expected = list(self.values.transpose(0, 1))
        expected[1] = expected[1][:5]
        _assert_examples(_share(batch, self.values), expected)


class TestBatches:
    @pytest.mark.parametrize(
        ('batch', 'found'),
        [
            ({'input_ids': 1, 'labels': 2}, r"\['input_ids', 'labels'\]"),
            ((1, 2), 'tuple'),
        ],
    )
    def test_of_another_kind(self, batch, found):
        with pytest.raises(ValueError, match=f"batch\\['inputs'\\].*got {found}"):
            BatchStructure.from_batch(batch)

    @pytest.mark.parametrize('shape', [(0, D), (0, 5, D)])
    def test_without_examples(self, shape):
        batch = {'inputs': torch.zeros(shape), 'targets': torch.zeros(0)}
        shared = _share(batch, torch.zeros(shape))
        assert shared.n_examples == 0
        assert shared.rows().shape == (0, 1, D)


class TestGraphRows:
    n_node, n_edge = (2, 3, 1, 4, 0), (4, 0, 2, 3, 0)

    def _batch(self, weights=None):
        return _graph_batch(self.n_node, self.n_edge, weights)

    def test_padding_by_counts(self):
        """The last graph with nodes and all after it, as jraph pads."""
        nodes, edges, graphs = double(10, D), double(9, D), double(5, D)
        batch = self._batch()
        _assert_examples(_share(batch, nodes), [nodes[:2], nodes[2:5], nodes[5:6]])
        _assert_examples(_share(batch, edges), [edges[:4], edges[4:4], edges[4:6]])
        _assert_examples(_share(batch, graphs), graphs[:3, None])

    def test_graphs_without_labels_are_padding(self):
        batch = self._batch([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0] * 2, [0.0] * 2])
        nodes, edges = double(10, D), double(9, D)
        _assert_examples(_share(batch, nodes), [nodes[:2], nodes[5:6]])
        _assert_examples(_share(batch, edges), [edges[:4], edges[4:6]])

    def test_rows_with_a_middle_axis(self):
        """Rows are counted over all leading axes."""
        nodes = double(2, 5, D)
        flat = nodes.reshape(10, D)
        shared = _share(self._batch(), nodes)
        _assert_examples(shared, [flat[:2], flat[2:5], flat[5:6]])

    def test_unknown_number_of_rows(self):
        with pytest.raises(AmbiguousRowsError, match=r'7 rows.*5, 10, 9'):
            _share(self._batch(), double(7, D))

    def test_as_many_nodes_as_edges(self):
        batch = _graph_batch((2, 3, 1), (3, 2, 1))
        with pytest.raises(AmbiguousRowsError, match='6 rows'):
            _share(batch, double(6, D))
        graphs = double(3, D)
        _assert_examples(_share(batch, graphs), graphs[:2, None])

    def test_as_many_nodes_as_graphs(self):
        batch = _graph_batch((1, 1, 1), (3, 2, 1))
        with pytest.raises(AmbiguousRowsError):
            _share(batch, double(3, D))
        edges = double(6, D)
        _assert_examples(_share(batch, edges), [edges[:3], edges[3:5]])

    def test_a_single_vector(self):
        with pytest.raises(AmbiguousRowsError):
            _share(self._batch(), double(D))


def _shared(values):
    return SharedTensor(values.unsqueeze(-2), None, len(values))


def _outer_sum(rows):
    return sum(torch.outer(row, row) for row in rows)


def _with_one(rows):
    return torch.cat([rows, rows.new_ones(*rows.shape[:-1], 1)], -1)


N, R = 4, 5


@pytest.mark.parametrize('bias', [True, False], ids=['bias', 'no bias'])
class TestSums:
    """Against sums written out."""

    inputs = double(N, R, D)
    gradients = double(N, R, 2, seed=1)

    def _inputs(self, bias, inputs=inputs):
        return _with_one(inputs) if bias else inputs

    def _check(self, sums, inputs, count, gradients):
        found = sums.sums()
        torch.testing.assert_close(found.inputs[0], inputs)
        torch.testing.assert_close(found.gradients[0], gradients)
        assert float(found.input_count) == count

    def test_expand(self, bias):
        sums = ExpandSums(bias)
        sums.add_inputs(_shared(self.inputs))
        sums.add_gradients(_shared(self.gradients))
        self._check(
            sums,
            _outer_sum(self._inputs(bias).flatten(0, 1)),
            N * R,
            _outer_sum(self.gradients.flatten(0, 1)),
        )

    @pytest.mark.parametrize(
        ('normalisation', 'inputs_by', 'gradients_by'),
        [('mean_inputs', R, 1), ('sum_inputs', 1, R)],
    )
    def test_reduce(self, bias, normalisation, inputs_by, gradients_by):
        sums = ReduceSums(bias, normalisation)
        sums.add_inputs(_shared(self.inputs))
        sums.add_gradients(_shared(self.gradients))
        self._check(
            sums,
            _outer_sum(self._inputs(bias).sum(1) / inputs_by),
            N,
            _outer_sum(self.gradients.sum(1) / gradients_by),
        )

    def test_reduce_of_summed_rows(self, bias):
        """A row may stand for several positions, as a convolution's does."""
        whole, summed = ReduceSums(bias, 'mean_inputs'), ReduceSums(bias, 'mean_inputs')
        whole.add_inputs(_shared(self.inputs))
        rows = self.inputs.sum(1, keepdim=True).unsqueeze(-2)
        summed.add_inputs(SharedTensor(rows, None, N, multiplicity=R))
        for sums in (whole, summed):
            sums.add_gradients(_shared(self.gradients))
        torch.testing.assert_close(summed.sums().inputs, whole.sums().inputs)

    @pytest.mark.parametrize('normalisation', ['mean_inputs', 'sum_inputs'])
    def test_reduce_of_unequal_examples(self, bias, normalisation):
        """The third example has no row."""
        index = torch.tensor([0, 1, 1, 3, 3, 3])
        rows, gradients = double(6, D), double(6, 2, seed=1)
        sums = ReduceSums(bias, normalisation)
        segments = Segments(torch.searchsorted(index, torch.arange(N)), len(index))
        sums.add_inputs(SharedTensor(rows[:, None], segments, N))
        sums.add_gradients(SharedTensor(gradients[:, None], segments, N))
        counts = torch.tensor([1, 2, 1, 3])[:, None]
        inputs = torch.stack(
            [self._inputs(bias, rows)[index == n].sum(0) for n in range(N)]
        )
        summed = torch.stack([gradients[index == n].sum(0) for n in range(N)])
        if normalisation == 'mean_inputs':
            inputs = inputs / counts
        else:
            summed = summed / counts
        self._check(sums, _outer_sum(inputs), 3, _outer_sum(summed))

    def test_several_applications_are_more_positions(self, bias):
        for whole, parts in (
            (ExpandSums(bias), ExpandSums(bias)),
            (ReduceSums(bias, 'mean_inputs'), ReduceSums(bias, 'mean_inputs')),
            (ReduceSums(bias, 'sum_inputs'), ReduceSums(bias, 'sum_inputs')),
        ):
            whole.add_inputs(_shared(self.inputs))
            whole.add_gradients(_shared(self.gradients))
            for positions in (slice(0, 2), slice(2, R)):
                parts.add_inputs(_shared(self.inputs[:, positions]))
                parts.add_gradients(_shared(self.gradients[:, positions]))
            expected, found = whole.sums(), parts.sums()
            torch.testing.assert_close(found.inputs, expected.inputs)
            torch.testing.assert_close(found.gradients, expected.gradients)
            assert found.input_count == expected.input_count

    def test_not_reached_both_ways(self, bias):
        for sums in (ExpandSums(bias), ReduceSums(bias, 'mean_inputs')):
            assert sums.sums() is None
            sums.add_inputs(_shared(self.inputs))
            assert sums.sums() is None

    def test_reduce_of_different_numbers_of_examples(self, bias):
        sums = ReduceSums(bias, 'mean_inputs')
        sums.add_inputs(_shared(self.inputs))
        with pytest.raises(AmbiguousRowsError, match=r'4 examples.*to 3'):
            sums.add_inputs(_shared(self.inputs[:3]))

    def test_no_examples(self, bias):
        """A process may hold padding alone; it adds nothing to the others' sums."""
        for sums in (ExpandSums(bias), ReduceSums(bias, 'mean_inputs')):
            sums.add_inputs(_shared(self.inputs[:0]))
            sums.add_gradients(_shared(self.gradients[:0]))
            found = sums.sums()
            assert not found.inputs.any()
            assert found.input_count == 0
            factor_a, _ = found.kronecker_factors(1.0)
            assert not factor_a.any()


def test_groups_are_blocks_of_their_own():
    inputs, gradients = double(N, R, 2, D), double(N, R, 2, 4, seed=1)
    for make in (lambda: ExpandSums(True), lambda: ReduceSums(True, 'mean_inputs')):
        together = make()
        together.add_inputs(SharedTensor(inputs, None, N))
        together.add_gradients(SharedTensor(gradients, None, N))
        for group in range(2):
            alone = make()
            alone.add_inputs(_shared(inputs[:, :, group]))
            alone.add_gradients(_shared(gradients[:, :, group]))
            for name in ('inputs', 'gradients'):
                torch.testing.assert_close(
                    getattr(together.sums(), name)[group],
                    getattr(alone.sums(), name)[0],
                )


def test_kronecker_factors():
    eye = torch.eye(2).unsqueeze(0)
    sums = FactorSums(12 * eye, torch.tensor(4.0), 6 * eye)
    factor_a, factor_b = sums.kronecker_factors(3.0)
    torch.testing.assert_close(factor_a, 3 * eye)
    torch.testing.assert_close(factor_b, 2 * eye)
    _, factor_b = sums.kronecker_factors(torch.tensor(3.0), torch.tensor(3.0))
    torch.testing.assert_close(factor_b, 18 * eye)


class TestCancellation:
    """Gradients that sum to zero over positions, as those of attention keys do."""

    def _factor_b(self, gradients, dtype):
        sums = ReduceSums(False, 'mean_inputs')
        inputs = torch.ones(*gradients.shape[:-1], 2, dtype=dtype)
        sums.add_inputs(SharedTensor(inputs, None, len(gradients)))
        sums.add_gradients(SharedTensor(gradients, None, len(gradients)))
        return sums.sums().gradients

    @pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
    def test_rounding_errors_are_no_curvature(self, dtype):
        torch.manual_seed(0)
        gradients = torch.randn(8, 49, 1, 3, dtype=dtype)
        gradients -= gradients.mean(1, keepdim=True)
        assert gradients.sum(1).abs().max() > 0
        assert torch.equal(
            self._factor_b(gradients, dtype), torch.zeros(1, 3, 3, dtype=dtype)
        )

    def test_gradients_that_only_shrink_count(self):
        torch.manual_seed(0)
        gradients = torch.randn(8, 49, 1, 3, dtype=torch.float64)
        gradients -= (1 - 1e-6) * gradients.mean(1, keepdim=True)
        summed = gradients.sum(1).squeeze(1)
        torch.testing.assert_close(
            self._factor_b(gradients, torch.float64)[0], summed.T @ summed
        )


@pytest.mark.parametrize('counts', [[2, 0, 3, 1], [0, 0], [], [0, 4], [5, 0]])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_sums_of_segments(counts, dtype):
    examples = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts).long())
    first_rows = torch.searchsorted(examples, torch.arange(len(counts)))
    segments = Segments(first_rows, len(examples))
    # Columns of a wider matrix, as a layer's inputs may be.
    rows = double(len(examples), 2, 5)[..., 1:4].to(dtype)
    expected = torch.zeros(len(counts), 2, 3, dtype=dtype)
    expected.index_add_(0, examples, rows)
    torch.testing.assert_close(segments.sums(rows), expected)
    assert segments.counts.tolist() == counts
