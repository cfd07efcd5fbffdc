"""Damped inverses of Kronecker factors.

The curvature block A kron B is damped as factored Tikhonov: with d the damping,
(A + pi sqrt(d) I) kron (B + sqrt(d) / pi I), pi**2 = (tr A / d_in) / (tr B / d_out)
(Martens and Grosse, 2015, Section 6.3). The damping is given here in units of the
block's mean eigenvalue, (tr A / d_in) (tr B / d_out), which turns both terms into
sqrt(damping) times the factor's own mean eigenvalue. So one value serves layers and
losses of any scale, and each factor can be inverted by itself.
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


def damped_inverse(factor: Tensor, damping: float) -> Tensor | None:
    """Inverts a factor in units of its mean eigenvalue, by Cholesky.

    Args:
      factor: Symmetric positive semi-definite, shape `[groups, d, d]`, its mean
        eigenvalue m not vanishing.
      damping: Damping of the whole block in units of its mean eigenvalue.

    Returns:
      The inverse of `factor / m + sqrt(damping) I`, `[groups, d, d]`; None if the
      factorisation failed or the inverse is not finite.
    """
    damped = factor / mean_eigenvalue(factor)
    damped.diagonal(dim1=-2, dim2=-1).add_(damping**0.5)
    cholesky, info = torch.linalg.cholesky_ex(damped)
    if bool((info != 0).any()):
        return None
    inverse = torch.cholesky_inverse(cholesky)
    return inverse if bool(torch.isfinite(inverse).all()) else None
