"""Damped inverses of Kronecker factors.

The curvature block A kron B is damped as factored Tikhonov: with d the damping,
(A + pi sqrt(d) I) kron (B + sqrt(d) / pi I), pi**2 = (tr A / d_in) / (tr B / d_out)
(Martens and Grosse, 2015, Section 6.3). The damping is given here in units of the
block's mean eigenvalue, (tr A / d_in) (tr B / d_out), which turns both terms into
sqrt(damping) times the factor's own mean eigenvalue. So one value serves layers and
losses of any scale, and each factor can be inverted by itself.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from .sharding import in_shares

Key = TypeVar('Key')

# Up to this size an inversion costs next to nothing.
_SMALL = 32


def mean_eigenvalue(factor: jax.Array) -> jax.Array:
    """Returns the mean eigenvalue over all groups of a factor `[groups, d, d]`."""
    return jnp.diagonal(factor, axis1=-2, axis2=-1).mean()


def vanishing_eigenvalue(dtype: jnp.dtype) -> float:
    """Returns the size below which a mean eigenvalue is lost to underflow.

    It is a sum of squares; the squares of the smaller gradients in it have
    underflowed well before the sum itself does.
    """
    return float(jnp.finfo(dtype).tiny) * 1e8


def of_like_shape(shapes: Mapping[Key, tuple[int, ...]]) -> list[list[Key]]:
    """Gathers factors that are worth inverting together.

    A compiler takes its time for each kind of operation and an accelerator for each
    launch, so factors of almost the same size share one: those of a layer with a bias
    differ by one from those without. Padding costs at most half as much again.

    Args:
      shapes: Shape `[groups, d, d]` of each factor.

    Returns:
      Lists of keys, those of one list with equal groups.
    """
    gathered: list[list[Key]] = []
    largest = (0, 0)
    for key in sorted(shapes, key=lambda key: shapes[key], reverse=True):
        groups, size, _ = shapes[key]
        fits = groups == largest[0] and (
            largest[1] ** 3 <= 1.5 * size**3 or largest[1] <= _SMALL
        )
        if not fits:
            gathered.append([])
            largest = (groups, size)
        gathered[-1].append(key)
    return gathered


def damped_inverses(
    factors: Sequence[jax.Array], damping: float, on_all_devices: bool = False
) -> tuple[list[jax.Array], jax.Array, jax.Array]:
    """Inverts factors of like shape in units of their mean eigenvalues, by Cholesky.

    Args:
      factors: Symmetric positive semi-definite, each of shape `[groups, d, d]` with
        equal groups; the smaller ones are padded to the largest.
      damping: Damping of the whole block in units of its mean eigenvalue.
      on_all_devices: Whether each device inverts a share of the factors, which then
        have to be the same on all of them.

    Returns:
      The inverses of `factor / m + sqrt(damping) I`, each of its factor's shape, m
      the mean eigenvalue; the m, `[n]`; and which of them succeeded, `[n]`. The
      others hold no numbers to be used.
    """
    sizes = np.asarray([factor.shape[-1] for factor in factors])
    largest = int(sizes.max())
    stack = jnp.stack([_padded(factor, largest) for factor in factors])
    diagonals = jnp.diagonal(stack, axis1=-2, axis2=-1)
    means = diagonals.sum(-1).mean(-1) / sizes.astype(stack.dtype)
    # Ones on the diagonal of the padding, which thus stays apart.
    shift = damping**0.5 + (np.arange(largest) >= sizes[:, None])
    shifts = np.eye(largest) * shift[:, None, None, :]
    damped = stack / means[:, None, None, None] + shifts.astype(stack.dtype)
    inverses = in_shares(_inverses, damped) if on_all_devices else _inverses(damped)
    # A negative mean eigenvalue would turn a negative definite factor into a good one.
    succeeded = jnp.isfinite(inverses).all((1, 2, 3)) & (means > 0)
    return (
        [inverses[i, :, :size, :size] for i, size in enumerate(sizes.tolist())],
        means,
        succeeded,
    )


def _padded(factor: jax.Array, size: int) -> jax.Array:
    missing = size - factor.shape[-1]
    if missing == 0:
        return factor
    return jnp.pad(factor, [(0, 0), (0, missing), (0, missing)])


def _inverses(matrices: jax.Array) -> jax.Array:
    """Inverts positive definite matrices `[..., d, d]`; not numbers on failure."""
    return jax.lax.platform_dependent(
        matrices, cpu=_inverses_in_turn, default=_inverses_at_once
    )


def _inverses_at_once(matrices: jax.Array) -> jax.Array:
    """Inverts the matrices together."""
    cholesky = jnp.linalg.cholesky(matrices)
    identity = jnp.eye(matrices.shape[-1], dtype=matrices.dtype)
    roots = solve_triangular(
        cholesky, jnp.broadcast_to(identity, matrices.shape), lower=True
    )
    return roots.swapaxes(-1, -2) @ roots


def _inverses_in_turn(matrices: jax.Array) -> jax.Array:
    """Inverts the matrices one after the other.

    jaxlib's factorisations of several matrices wait, inside a thread of a pool, for
    other threads of the same pool. With as many of them at once as there are threads
    all wait for ever: seen with two cores, jaxlib 0.7.0 and 0.10.2.
    """
    flat = matrices.reshape(-1, *matrices.shape[-2:])
    return jax.lax.map(_inverses_at_once, flat).reshape(matrices.shape)
