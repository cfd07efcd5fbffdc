"""The Kronecker factors over time: their moving averages and their inverses."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .inverses import (
    damped_inverses,
    mean_eigenvalue,
    of_like_shape,
    vanishing_eigenvalue,
)


class KroneckerFactors(NamedTuple):
    """What K-FAC keeps for both sides of all layers.

    A factor goes by its layer's name with '/a' (inputs) or '/b' (output gradients)
    appended. Numbers are kept in one vector over all factors, in the order of their
    names, since a compiled step pays for every array apart.

    Attributes:
      moving_average: Exponential moving averages of the factors, `[groups, d, d]`,
        not bias-corrected; zero before the first statistic.
      averaged_weight: Sums of the weights in the averages, 1 - decay**updates,
        `[factors]`.
      inverse: Damped inverses in units of the factors' mean eigenvalues,
        `[groups, d, d]`; the identity, which preconditions nothing, until there is
        one.
      inverted_scale: Mean eigenvalues of the factors that the inverses were computed
        from, `[factors]`; zero until there is one.
    """

    moving_average: dict[str, jax.Array]
    averaged_weight: jax.Array
    inverse: dict[str, jax.Array]
    inverted_scale: jax.Array

    @classmethod
    def empty(
        cls, shapes: Mapping[str, tuple[int, int, int]], dtype: jnp.dtype
    ) -> 'KroneckerFactors':
        """Returns factors of the given shapes before their first statistics."""
        return cls(
            {name: jnp.zeros(shape, dtype) for name, shape in shapes.items()},
            jnp.zeros(len(shapes), dtype),
            {
                name: jnp.broadcast_to(jnp.eye(shape[-1], dtype=dtype), shape)
                for name, shape in shapes.items()
            },
            jnp.zeros(len(shapes), dtype),
        )

    def places(self, names: Iterable[str]) -> list[int]:
        """Returns the places of factors in the vectors."""
        place = {name: i for i, name in enumerate(sorted(self.moving_average))}
        return [place[name] for name in names]

    def update(
        self, statistics: Mapping[str, jax.Array], decay: float
    ) -> tuple['KroneckerFactors', jax.Array]:
        """Moves the averages towards new statistics of shape `[groups, d, d]`.

        A factor keeps its average if it has no statistic, or if the statistic of
        either side of its layer is not finite, or if its own vanishes to
        floating-point precision.

        Args:
          statistics: Factor name to statistic, both sides of a layer or neither.
          decay: Decay of the averages.

        Returns:
          The factors, and how many layers had a statistic that is not finite.
        """
        if not statistics:
            return self, jnp.zeros((), jnp.int32)
        layers = sorted({name.rpartition('/')[0] for name in statistics})
        names = [f'{layer}/{side}' for layer in layers for side in 'ab']
        # An entry of a Gram matrix is at most the root of the product of two on its
        # diagonal, so the trace is finite only if all entries are.
        sizes = jnp.stack([mean_eigenvalue(statistics[name]) for name in names])
        finite = jnp.isfinite(sizes).reshape(-1, 2).all(1)
        vanishing = vanishing_eigenvalue(sizes.dtype)
        accept = jnp.repeat(finite, 2) & (sizes > vanishing)
        averages = dict(self.moving_average)
        for i, name in enumerate(names):
            average = averages[name]
            moved = average + (1.0 - decay) * (statistics[name] - average)
            averages[name] = jnp.where(accept[i], moved, average)
        places = jnp.asarray(self.places(names))
        weights = self.averaged_weight[places]
        moved_weights = weights + (1.0 - decay) * (1.0 - weights)
        return (
            self._replace(
                moving_average=averages,
                averaged_weight=self.averaged_weight.at[places].set(
                    jnp.where(accept, moved_weights, weights)
                ),
            ),
            (~finite).sum(dtype=jnp.int32),
        )

    def renew_inverses(
        self, damping: float, on_all_devices: bool = False
    ) -> tuple['KroneckerFactors', jax.Array]:
        """Inverts the averages, those of like shape together.

        A factor that cannot be inverted keeps its last good inverse.

        Args:
          damping: Damping of a layer's block in units of its mean eigenvalue.
          on_all_devices: Whether each device inverts a share of the factors.

        Returns:
          The factors, and how many with statistics could not be inverted.
        """
        inverses = dict(self.inverse)
        scale, failed = self.inverted_scale, jnp.zeros((), jnp.int32)
        shapes = {name: value.shape for name, value in self.moving_average.items()}
        for names in of_like_shape(shapes):
            places = jnp.asarray(self.places(names))
            weights = self.averaged_weight[places]
            renewed, means, succeeded = damped_inverses(
                [self.moving_average[name] for name in names], damping, on_all_devices
            )
            renew = succeeded & (weights > 0)
            failed += ((weights > 0) & ~succeeded).sum(dtype=jnp.int32)
            for i, name in enumerate(names):
                inverses[name] = jnp.where(renew[i], renewed[i], inverses[name])
            # In units of the mean eigenvalue the inverse of an average is that of the
            # bias-corrected one; the mean eigenvalue itself is not.
            means = means / jnp.where(weights > 0, weights, 1)
            scale = scale.at[places].set(jnp.where(renew, means, scale[places]))
        return self._replace(inverse=inverses, inverted_scale=scale), failed
