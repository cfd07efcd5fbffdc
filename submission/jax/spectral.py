"""Steepest descent under the spectral norm, in the metric of the curvature."""

import jax
import jax.numpy as jnp

from ..spectral import ITERATIONS, POLYNOMIAL, UPDATE_RMS
from .products import by_member


def polar_factors(matrices: jax.Array) -> jax.Array:
    """Returns about P Q.T for matrices P S Q.T, `[..., rows, columns]`; 0 for 0."""
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.swapaxes(-1, -2) if is_tall else matrices
    # First by the largest entry, since squares of small ones underflow. Those that are
    # hardly numbers any more would not survive that.
    largest = jnp.max(jnp.abs(x), (-2, -1), keepdims=True)
    counts = largest > jnp.finfo(x.dtype).tiny
    x = jnp.where(counts, x / jnp.where(counts, largest, 1), 0)
    norm = jnp.sqrt(jnp.sum(x * x, (-2, -1), keepdims=True))
    # Either zero or at least 1.
    x = x / jnp.maximum(norm, 1)
    a, b, c = POLYNOMIAL

    def iterate(_: int, x: jax.Array) -> jax.Array:
        gram = x @ x.swapaxes(-1, -2)
        return a * x + (b * gram + c * gram @ gram) @ x

    x = jax.lax.fori_loop(0, ITERATIONS, iterate, x)
    return x.swapaxes(-1, -2) if is_tall else x


def directions(
    momenta: jax.Array,
    gradients: jax.Array,
    roots_a: jax.Array,
    roots_b: jax.Array,
    on_all_devices: bool = False,
) -> jax.Array:
    """Returns the directions of layers of one shape, of root mean square `UPDATE_RMS`.

    Args:
      momenta: Momenta of the gradients, `[n, groups, d_out, d_in]`.
      gradients: The gradients themselves; where a layer's is zero, so is its direction.
      roots_a: The R_a, `[n, groups, d_in, d_in]`.
      roots_b: The R_b, `[n, groups, d_out, d_out]`.
      on_all_devices: Whether each device computes a share of the directions; all else
        is then the same on all of them.
    """
    found = by_member(
        _steepest, momenta, roots_a, roots_b, on_all_devices=on_all_devices
    )
    of_layer = (1, 2, 3)
    sizes = jnp.sqrt(jnp.mean(found**2, of_layer, keepdims=True))
    moves = (sizes > 0) & jnp.any(gradients != 0, of_layer, keepdims=True)
    return found * jnp.where(moves, UPDATE_RMS / jnp.where(moves, sizes, 1), 0)


def _steepest(momentum: jax.Array, root_a: jax.Array, root_b: jax.Array) -> jax.Array:
    """Returns R_b.T polar(R_b M R_a.T) R_a."""
    whitened = root_b @ momentum @ root_a.swapaxes(-1, -2)
    return root_b.swapaxes(-1, -2) @ polar_factors(whitened) @ root_a
