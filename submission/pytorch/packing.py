"""Symmetric matrices without their second half, for sending.

A symmetric matrix is cut at the middle into [[P, Rᵀ], [R, Q]], with p and q rows,
q = p or p + 1. Half of P fits exactly beside half of Q, and R is kept whole, so that
d (d + 1) / 2 numbers are left, in two dense blocks. Slices and triangles alone are
needed for it, no index for each entry.
"""

import torch
from torch import Tensor


def packed_size(groups: int, dim: int) -> int:
    """Returns how many numbers are left of `[groups, dim, dim]`."""
    return groups * dim * (dim + 1) // 2


def pack_symmetric(matrices: Tensor) -> Tensor:
    """Packs symmetric matrices `[groups, d, d]` into `[packed_size(groups, d)]`.

    Only the lower triangle is read, its diagonal included.
    """
    groups, dim = matrices.shape[0], matrices.shape[-1]
    p = dim // 2
    # The upper triangle of the second block (transposed), and beneath its diagonal
    # the lower one of the first.
    halves = matrices.new_zeros(groups, p + 1, dim - p)
    halves[:, : dim - p] = matrices[:, p:, p:].mT.triu()
    halves[:, 1:, :p] += matrices[:, :p, :p].tril()
    return torch.cat([halves.flatten(), matrices[:, p:, :p].flatten()])


def unpack_symmetric(packed: Tensor, groups: int, dim: int) -> Tensor:
    """Undoes `pack_symmetric`; both halves of the result are equal to the bit."""
    p = dim // 2
    q = dim - p
    n_halves = groups * (p + 1) * q
    halves = packed[:n_halves].view(groups, p + 1, q)
    corner = packed[n_halves:].view(groups, q, p)
    matrices = packed.new_empty(groups, dim, dim)
    matrices[:, p:, :p] = corner
    matrices[:, :p, p:] = corner.mT
    matrices[:, :p, :p] = _mirrored(halves[:, 1:, :p])
    matrices[:, p:, p:] = _mirrored(halves[:, :q].mT)
    return matrices


def _mirrored(lower: Tensor) -> Tensor:
    """Copies the lower triangle over the upper one."""
    return lower.tril() + lower.tril(-1).mT
