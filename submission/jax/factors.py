"""The Kronecker factors over time: their moving averages and their inverses."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Self

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from .inverses import (
    damped_inverses,
    inverses_from_roots,
    mean_eigenvalues,
    vanishing_eigenvalue,
)
from .stacks import FactorStacks, Shape


@flax.struct.dataclass
class KroneckerFactors:
    """What K-FAC keeps for both sides of all layers.

    A factor goes by its layer's name with '/a' (inputs) or '/b' (output gradients)
    appended. Factors of like shape are in one array, and numbers are in one vector over
    all factors, since a compiled step pays for every array apart.

    Attributes:
      stacks: Which factors each array holds; the vectors are in its order.
      moving_average: Exponential moving averages of the factors, `[n, groups, d, d]`
        for each stack, not bias-corrected; zero before the first statistic.
      averaged_weight: Sums of the weights in the averages, 1 - decay**updates,
        `[factors]`.
      inverse: Damped inverses in units of the factors' mean eigenvalues, shaped like
        the averages; the identity, which preconditions nothing, until there is one.
        Empty where roots are kept.
      inverted_scale: Mean eigenvalues of the factors that the inverses were computed
        from, `[factors]`; zero until there is one.
      inverse_root: Lower triangular R with R.T R the inverses, kept in the place of
        these where that is what the first-order rule uses; otherwise empty.
    """

    stacks: FactorStacks = flax.struct.field(pytree_node=False)
    moving_average: tuple[jax.Array, ...]
    averaged_weight: jax.Array
    inverse: tuple[jax.Array, ...]
    inverted_scale: jax.Array
    inverse_root: tuple[jax.Array, ...] = ()

    @classmethod
    def empty(
        cls, shapes: Mapping[str, Shape], dtype: jnp.dtype, keeps_roots: bool = False
    ) -> Self:
        """Returns factors of the given shapes before their first statistics."""
        stacks = FactorStacks.of(shapes)
        stacked = stacks.stacked_shapes()
        identities = tuple(
            jnp.broadcast_to(jnp.eye(shape[-1], dtype=dtype), shape)
            for shape in stacked
        )
        return cls(
            stacks,
            tuple(jnp.zeros(shape, dtype) for shape in stacked),
            jnp.zeros(len(shapes), dtype),
            () if keeps_roots else identities,
            jnp.zeros(len(shapes), dtype),
            identities if keeps_roots else (),
        )

    @property
    def dtype(self) -> jnp.dtype:
        """The precision: at least single, whatever the parameters are in."""
        return self.averaged_weight.dtype

    def inverses_of(self, names: Sequence[str]) -> jax.Array:
        """Returns the inverses of factors of one shape, `[n, groups, d, d]`."""
        if self.inverse_root:
            return inverses_from_roots(self.inverse_roots_of(names))
        return self.stacks.pick(self.inverse, names)

    def inverse_roots_of(self, names: Sequence[str]) -> jax.Array:
        """Returns the roots of inverses, where roots are kept."""
        return self.stacks.pick(self.inverse_root, names)

    def inverted_scales_of(self, names: Sequence[str]) -> jax.Array:
        """Returns the mean eigenvalues that belong to the inverses, `[n]`."""
        places = self.stacks.places
        return self.inverted_scale[np.asarray([places[name] for name in names])]

    def update(
        self, statistics: Mapping[str, jax.Array], decay: float
    ) -> tuple[Self, jax.Array]:
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
        stacks = self.stacks
        new = stacks.stack(statistics, self.averaged_weight.dtype)
        # An entry of a Gram matrix is at most the root of the product of two on its
        # diagonal, so the trace is finite only if all entries are.
        means = jnp.concatenate(
            [
                mean_eigenvalues(one, sizes)
                for one, sizes in zip(new, stacks.sizes, strict=True)
            ]
        )
        finite = jnp.isfinite(means)
        finite &= finite[np.asarray(stacks.other_sides)]
        # Those without a statistic vanish too.
        accept = finite & (means > vanishing_eigenvalue(means.dtype))
        averages = tuple(
            jnp.where(
                accepted[:, None, None, None],
                average + (1.0 - decay) * (statistic - average),
                average,
            )
            for average, statistic, accepted in zip(
                self.moving_average, new, stacks.split(accept), strict=True
            )
        )
        weights = self.averaged_weight
        moved_weights = weights + (1.0 - decay) * (1.0 - weights)
        return (
            dataclasses.replace(
                self,
                moving_average=averages,
                averaged_weight=jnp.where(accept, moved_weights, weights),
            ),
            (~finite).sum(dtype=jnp.int32) // 2,
        )

    def renew_inverses(
        self, damping: float, on_all_devices: bool = False
    ) -> tuple[Self, jax.Array]:
        """Inverts the averages, stack by stack.

        A factor that cannot be inverted keeps its last good inverse.

        Args:
          damping: Damping of a layer's block in units of its mean eigenvalue.
          on_all_devices: Whether each device inverts a share of the factors.

        Returns:
          The factors, and how many with statistics could not be inverted.
        """
        if not self.moving_average:
            return self, jnp.zeros((), jnp.int32)
        keeps_roots = bool(self.inverse_root)
        renewed, all_means, all_succeeded = [], [], []
        has_statistics = self.averaged_weight > 0
        for average, sizes, known, last in zip(
            self.moving_average,
            self.stacks.sizes,
            self.stacks.split(has_statistics),
            self.inverse_root if keeps_roots else self.inverse,
            strict=True,
        ):
            found, means, succeeded = damped_inverses(
                average, sizes, damping, on_all_devices, keeps_roots
            )
            is_new = (succeeded & known)[:, None, None, None]
            renewed.append(jnp.where(is_new, found, last))
            all_means.append(means)
            all_succeeded.append(succeeded)
        succeeded = jnp.concatenate(all_succeeded)
        # In units of the mean eigenvalue the inverse of an average is that of the
        # bias-corrected one; the mean eigenvalue itself is not.
        weights = jnp.where(has_statistics, self.averaged_weight, 1)
        scale = jnp.where(
            has_statistics & succeeded,
            jnp.concatenate(all_means) / weights,
            self.inverted_scale,
        )
        return (
            dataclasses.replace(
                self,
                inverted_scale=scale,
                inverse=() if keeps_roots else tuple(renewed),
                inverse_root=tuple(renewed) if keeps_roots else (),
            ),
            (has_statistics & ~succeeded).sum(dtype=jnp.int32),
        )
