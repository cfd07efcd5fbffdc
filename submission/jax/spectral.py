"""Steepest descent under the spectral norm, in the metric of the curvature.

With the damped factors A and B of a layer and the momentum M of its gradient, the
direction U that has the largest product with M among all with
||B**(1/2) U A**(1/2)|| <= 1, in the spectral norm, is

    U = R_b.T polar(R_b M R_a.T) R_a,   R.T R the inverse of a factor,

where polar(W) = P Q.T for the singular value decomposition W = P S Q.T. It does not
depend on which roots R are taken. Without curvature (A and B the identity) this is the
direction of Muon (Jordan et al., 2024), whose iteration for the polar factor is used;
with curvature it moves as far in each direction as the model's output allows, not its
parameters.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

# Root mean square of a layer's update, which is about that of AdamW's (Liu et al.,
# 2025, Section 2.2), so that the learning rates and weight decays of both agree.
UPDATE_RMS = 0.2
# Jordan et al.: fast for small singular values, which end between 0.7 and 1.2.
_POLYNOMIAL = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 6


def polar_factors(matrices: jax.Array) -> jax.Array:
    """Returns about P Q.T for matrices P S Q.T, `[n, rows, columns]`; 0 for 0."""
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.swapaxes(-1, -2) if is_tall else matrices
    x = jax.lax.platform_dependent(x, cpu=_polar_in_turn, default=_wide_polar_factors)
    return x.swapaxes(-1, -2) if is_tall else x


def _wide_polar_factors(x: jax.Array) -> jax.Array:
    norms = jnp.sqrt(jnp.sum(x * x, (-2, -1), keepdims=True))
    x = x / jnp.where(norms > 0, norms, 1)
    a, b, c = _POLYNOMIAL

    def iterate(_: int, x: jax.Array) -> jax.Array:
        gram = x @ x.swapaxes(-1, -2)
        return a * x + (b * gram + c * gram @ gram) @ x

    return jax.lax.fori_loop(0, _ITERATIONS, iterate, x)


def _polar_in_turn(x: jax.Array) -> jax.Array:
    # Batched products are slow on CPUs.
    return jax.lax.map(_wide_polar_factors, x)


def directions(
    momenta: Mapping[str, jax.Array],
    roots_a: Mapping[str, jax.Array],
    roots_b: Mapping[str, jax.Array],
) -> dict[str, jax.Array]:
    """Returns each layer's direction, of root mean square `UPDATE_RMS`.

    Args:
      momenta: Layer name to the momentum of its gradient, `[groups, d_out, d_in]`.
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
            found[name] = outcome * jnp.where(
                size > 0, UPDATE_RMS / jnp.where(size > 0, size, 1), 0
            )
    return found


def product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Multiplies `[groups, ...]` matrices; one group is a plain product."""
    if left.shape[0] == 1:
        # Batched products are slow on CPUs.
        return (left[0] @ right[0])[None]
    return left @ right
