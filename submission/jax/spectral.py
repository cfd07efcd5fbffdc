"""Steepest descent under the spectral norm, in the metric of the curvature."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from ..spectral import ITERATIONS, POLYNOMIAL, UPDATE_RMS
from .products import in_turn_on_cpus, product


def polar_factors(matrices: jax.Array) -> jax.Array:
    """Returns about P Q.T for matrices P S Q.T, `[n, rows, columns]`; 0 for 0."""
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.swapaxes(-1, -2) if is_tall else matrices
    x = in_turn_on_cpus(_wide_polar_factors, x)
    return x.swapaxes(-1, -2) if is_tall else x


def _wide_polar_factors(x: jax.Array) -> jax.Array:
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

    return jax.lax.fori_loop(0, ITERATIONS, iterate, x)


def directions(
    momenta: Mapping[str, jax.Array],
    moves: Mapping[str, jax.Array],
    roots_a: Mapping[str, jax.Array],
    roots_b: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
    """Returns each layer's direction, of root mean square `UPDATE_RMS`.

    Args:
      momenta: Layer name to the momentum of its gradient, `[groups, d_out, d_in]`.
      moves: Layer name to whether its gradient is anything but zero.
      roots_a: Layer name to R_a, `[groups, d_in, d_in]`.
      roots_b: Layer name to R_b, `[groups, d_out, d_out]`.
    """
    whitened = {
        name: product(product(roots_b[name], momentum), roots_a[name].swapaxes(-1, -2))
        for name, momentum in momenta.items()
    }
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name, matrix in whitened.items():
        by_shape.setdefault(matrix.shape, []).append(name)
    found = {}
    for names in by_shape.values():
        together = polar_factors(jnp.concatenate([whitened[name] for name in names]))
        for name, polar in zip(names, jnp.split(together, len(names)), strict=True):
            outcome = product(
                product(roots_b[name].swapaxes(-1, -2), polar), roots_a[name]
            )
            size = jnp.sqrt(jnp.mean(outcome**2))
            counts = (size > 0) & moves[name]
            found[name] = outcome * jnp.where(
                counts, UPDATE_RMS / jnp.where(counts, size, 1), 0
            )
    return found
