"""Large Gram matrices, of which little more than half is computed."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from submission.pytorch.approximations import ExpandSums, gram_blocks
from submission.pytorch.weight_sharing import SharedTensor

ROWS = 700


def _gram(matrix):
    sums = ExpandSums(bias=False)
    shared = SharedTensor(matrix[None, :, None], None, 1)
    sums.add_inputs(shared)
    sums.add_gradients(shared)
    return sums.sums().inputs[0]


def _rows(n_rows, dim):
    generator = torch.Generator().manual_seed(dim)
    return torch.randn(n_rows, dim, generator=generator, dtype=torch.float64)


# Below the size that is halved, at it, and with a last block that is not a whole one.
@pytest.mark.parametrize('dim', [1, 255, 256, 257, 300, 320, 640])
@pytest.mark.parametrize('layout', ['rows', 'columns'])
def test_equals_the_whole_product(dim, layout):
    matrix = _rows(ROWS, dim)
    if layout == 'columns':
        matrix = matrix.T.contiguous().T
    torch.testing.assert_close(_gram(matrix), matrix.T @ matrix)


def test_fewer_rows_than_dimensions():
    matrix = _rows(100, 300)
    torch.testing.assert_close(_gram(matrix), matrix.T @ matrix)


def test_no_rows():
    assert not _gram(_rows(0, 256)).any()


@pytest.mark.parametrize(('dim', 'share'), [(128, 1.0), (256, 0.625), (512, 0.625)])
def test_leaves_out_what_is_there_already(dim, share):
    matrix = _rows(ROWS, dim)
    with FlopCounterMode(display=False) as counter:
        _gram(matrix)
    # Once for the inputs and once for the gradients.
    whole = 2 * (2 * ROWS * dim**2)
    assert counter.get_total_flops() == share * whole


@pytest.mark.parametrize('dim', [1024, 1025, 1536, 4096])
def test_blocks_follow_on_each_other(dim):
    starts, stops = zip(*gram_blocks(10**5, dim, on_cpu=False), strict=True)
    assert starts == (0, *stops[:-1])
    assert stops[-1] == dim
    assert len(starts) == 4


def test_an_accelerator_computes_small_ones_whole():
    assert gram_blocks(10**5, 512, on_cpu=False) == [(0, 512)]
    assert len(gram_blocks(10**5, 512, on_cpu=True)) == 4
