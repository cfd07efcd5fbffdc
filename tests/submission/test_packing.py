"""Symmetric matrices without their second half."""

import pytest
import torch

from submission.pytorch.packing import pack_symmetric, packed_size, unpack_symmetric

from .curvature import double

DIMS = [1, 2, 3, 4, 5, 8, 9]


def _symmetric(groups, dim):
    root = double(groups, dim, dim)
    return root + root.mT


@pytest.mark.parametrize('groups', [1, 3])
@pytest.mark.parametrize('dim', DIMS)
class TestPacking:
    def test_there_and_back(self, groups, dim):
        matrices = _symmetric(groups, dim)
        packed = pack_symmetric(matrices)
        assert packed.shape == (packed_size(groups, dim),)
        assert torch.equal(unpack_symmetric(packed, groups, dim), matrices)

    def test_half_is_left(self, groups, dim):
        assert packed_size(groups, dim) == groups * len(torch.tril_indices(dim, dim).mT)

    def test_the_upper_half_is_not_read(self, groups, dim):
        matrices = _symmetric(groups, dim)
        noise = double(groups, dim, dim, seed=1).triu(1)
        unpacked = unpack_symmetric(pack_symmetric(matrices + noise), groups, dim)
        assert torch.equal(unpacked, matrices)

    def test_each_number_stays_in_its_place(self, groups, dim):
        """One that is not finite spoils no other, and sums pass through."""
        matrices = _symmetric(groups, dim)
        matrices[-1, -1, 0] = matrices[-1, 0, -1] = float('nan')
        packed = pack_symmetric(matrices) + pack_symmetric(_symmetric(groups, dim))
        unpacked = unpack_symmetric(packed, groups, dim)
        expected = matrices + _symmetric(groups, dim)
        torch.testing.assert_close(unpacked, expected, rtol=0, atol=0, equal_nan=True)
