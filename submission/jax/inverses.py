"""Damped inverses of Kronecker factors.

The curvature block A kron B is damped as factored Tikhonov: with d the damping,
(A + pi sqrt(d) I) kron (B + sqrt(d) / pi I), pi**2 = (tr A / d_in) / (tr B / d_out)
(Martens and Grosse, 2015, Section 6.3). The damping is given here in units of the
block's mean eigenvalue, (tr A / d_in) (tr B / d_out), which turns both terms into
sqrt(damping) times the factor's own mean eigenvalue. So one value serves layers and
losses of any scale, and each factor can be inverted by itself.
"""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular


def mean_eigenvalue(factor: jax.Array) -> jax.Array:
    """Returns the mean eigenvalue over all groups of a factor `[groups, d, d]`."""
    return jnp.diagonal(factor, axis1=-2, axis2=-1).mean()


def vanishing_eigenvalue(dtype: jnp.dtype) -> float:
    """Returns the size below which a mean eigenvalue is lost to underflow.

    It is a sum of squares; the squares of the smaller gradients in it have
    underflowed well before the sum itself does.
    """
    return float(jnp.finfo(dtype).tiny) * 1e8


def damped_inverses(factors: jax.Array, damping: float) -> tuple[jax.Array, jax.Array]:
    """Inverts factors of one shape in units of their mean eigenvalues, by Cholesky.

    Args:
      factors: Symmetric positive semi-definite, shape `[n, groups, d, d]`, their
        mean eigenvalues m not vanishing.
      damping: Damping of the whole block in units of its mean eigenvalue.

    Returns:
      The inverses of `factor / m + sqrt(damping) I`, `[n, groups, d, d]`, and which
      of them succeeded, `[n]`; the others hold no numbers to be used.
    """
    means = jax.vmap(mean_eigenvalue)(factors)[:, None, None, None]
    identity = jnp.eye(factors.shape[-1], dtype=factors.dtype)
    # A failed factorisation shows as not-a-number.
    cholesky = jnp.linalg.cholesky(factors / means + damping**0.5 * identity)
    inverse_roots = jax.lax.platform_dependent(
        cholesky, cpu=_inverse_triangles_in_turn, default=_inverse_triangles
    )
    inverses = inverse_roots.swapaxes(-1, -2) @ inverse_roots
    # A negative mean eigenvalue would turn a negative definite factor into a good one.
    succeeded = jnp.isfinite(inverses).all((1, 2, 3)) & (means[:, 0, 0, 0] > 0)
    return inverses, succeeded


def _inverse_triangles(lower: jax.Array) -> jax.Array:
    """Inverts lower triangular matrices `[n, groups, d, d]`."""
    identity = jnp.eye(lower.shape[-1], dtype=lower.dtype)
    return solve_triangular(lower, jnp.broadcast_to(identity, lower.shape), lower=True)


def _inverse_triangles_in_turn(lower: jax.Array) -> jax.Array:
    """Inverts lower triangular matrices `[n, groups, d, d]` one after the other.

    A single one goes to LAPACK. For several at once XLA makes loops of its own on
    CPUs, which take long to compile and, with few threads, can wait for each other
    for ever (seen with jaxlib 0.7.0 and 0.10.2).
    """
    identity = jnp.eye(lower.shape[-1], dtype=lower.dtype)
    flat = lower.reshape(-1, *lower.shape[-2:])
    inverses = jax.lax.map(
        lambda matrix: solve_triangular(matrix, identity, lower=True), flat
    )
    return inverses.reshape(lower.shape)
