"""Damped inverses of Kronecker factors.

The curvature block A kron B is damped as factored Tikhonov: with d the damping,
(A + pi sqrt(d) I) kron (B + sqrt(d) / pi I), pi**2 = (tr A / d_in) / (tr B / d_out)
(Martens and Grosse, 2015, Section 6.3). The damping is given here in units of the
block's mean eigenvalue, (tr A / d_in) (tr B / d_out), which turns both terms into
sqrt(damping) times the factor's own mean eigenvalue. So one value serves layers and
losses of any scale.
"""

import torch
from torch import Tensor


def mean_eigenvalue(factor: Tensor) -> Tensor:
    """Returns the mean eigenvalue over all groups of a factor `[groups, d, d]`."""
    return factor.diagonal(dim1=-2, dim2=-1).mean()


def vanishing_eigenvalue(dtype: torch.dtype) -> float:
    """Returns the size below which a mean eigenvalue is lost to underflow.

    It is a sum of squares; the squares of the smaller gradients in it have
    underflowed well before the sum itself does.
    """
    return torch.finfo(dtype).tiny * 1e8


def damped_inverse(factor: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Inverts a factor after adding its share of the damping.

    Args:
      factor: Symmetric positive semi-definite, shape `[groups, d, d]`.
      damping: Damping of the whole block in units of its mean eigenvalue.

    Returns:
      The inverse, `[groups, d, d]`, and whether it is good: a scalar boolean tensor,
      False if a factorisation failed or the inverse is not finite.
    """
    shift = damping**0.5 * mean_eigenvalue(factor)
    damped = factor.clone()
    damped.diagonal(dim1=-2, dim2=-1).add_(shift)
    cholesky, info = torch.linalg.cholesky_ex(damped)
    inverse = torch.cholesky_inverse(cholesky)
    return inverse, (info == 0).all() & torch.isfinite(inverse).all()
