"""Which Kronecker factors are kept, and inverted, together in one array."""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

# What padding may add to the memory of all factors, and to the work of inverting them.
_MOST_PADDING = 1 / 8

Shape = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class FactorStacks:
    """Where each factor is among the arrays, each of which holds several.

    A compiler takes its time for each operation and an accelerator for each launch, so
    factors of almost the same size share an array: those of a layer with a bias differ
    by one from those without. The smaller ones are padded with zeros.

    Attributes:
      names: Names of the factors in each stack. Vectors with a number for each factor
        are in this order, one stack after the other.
      shapes: Shape `[groups, d, d]` of each of these factors.
    """

    names: tuple[tuple[str, ...], ...]
    shapes: tuple[tuple[Shape, ...], ...]

    @classmethod
    def of(cls, shapes: Mapping[str, Shape]) -> 'FactorStacks':
        """Chooses the stacks for factors of the given shapes, by their names."""
        stacks = [
            tuple(name for name in sorted(shapes) if shapes[name] in members)
            for members in _of_like_shape(shapes.values())
        ]
        return cls(
            tuple(stacks),
            tuple(tuple(shapes[name] for name in names) for names in stacks),
        )

    @functools.cached_property
    def order(self) -> list[str]:
        """Names of the factors in the order of the vectors."""
        return [name for names in self.names for name in names]

    @functools.cached_property
    def places(self) -> dict[str, int]:
        """Each factor's place in the vectors."""
        return {name: place for place, name in enumerate(self.order)}

    @functools.cached_property
    def other_sides(self) -> list[int]:
        """For each factor in the vectors' order, the place of its layer's other one."""
        swapped = {'a': 'b', 'b': 'a'}
        return [
            self.places[f'{layer}/{swapped[side]}']
            for layer, _, side in (name.rpartition('/') for name in self.order)
        ]

    @functools.cached_property
    def sizes(self) -> list[np.ndarray]:
        """Dimensions d of the factors in each stack."""
        return [np.asarray([shape[-1] for shape in members]) for members in self.shapes]

    def stacked_shapes(self) -> list[tuple[int, ...]]:
        """Shape `[n, groups, d, d]` of each stack, d the largest in it."""
        return [(len(members), *max(members)) for members in self.shapes]

    def stack(
        self, factors: Mapping[str, jax.Array], dtype: jnp.dtype
    ) -> list[jax.Array]:
        """Gathers factors; those that are missing are zero."""
        stacks = []
        for names, shape in zip(self.names, self.stacked_shapes(), strict=True):
            nothing = jnp.zeros(shape[1:], dtype)
            members = [_padded(factors.get(name, nothing), shape[-1]) for name in names]
            stacks.append(jnp.stack(members))
        return stacks

    def pick(self, stacks: Sequence[jax.Array], names: Sequence[str]) -> jax.Array:
        """Returns factors, or what is kept in their place, from the stacks.

        Args:
          stacks: The stacks.
          names: Names of factors of one shape.

        Returns:
          They, in this order, `[n, groups, d, d]`.

        Raises:
          KeyError: If the first is not there.
        """
        for own, shapes, stack in zip(self.names, self.shapes, stacks, strict=True):
            if names[0] not in own:
                continue
            members = [own.index(name) for name in names]
            size = shapes[members[0]][-1]
            if members != list(range(len(own))):
                stack = stack[np.asarray(members)]
            return stack[:, :, :size, :size]
        raise KeyError(names[0])

    def split(self, vector: jax.Array) -> list[jax.Array]:
        """Splits a vector over all factors into those over each stack's."""
        ends = np.cumsum([len(names) for names in self.names])
        return [
            vector[end - len(names) : end]
            for names, end in zip(self.names, ends.tolist(), strict=True)
        ]


def _padded(factor: jax.Array, size: int) -> jax.Array:
    missing = size - factor.shape[-1]
    if missing == 0:
        return factor
    return jnp.pad(factor, [(0, 0), (0, missing), (0, missing)])


def _of_like_shape(shapes: Iterable[Shape]) -> list[set[Shape]]:
    """Gathers shapes of factors that are worth keeping together.

    From the largest down, each shape joins the next larger one of as many groups if
    that adds little to what all factors take, in numbers and in work.

    Args:
      shapes: Shape `[groups, d, d]` of every factor.

    Returns:
      Sets of different shapes, those of one set with equal groups.
    """
    counts = collections.Counter(shapes)
    costs = (count * _cost(shape) for shape, count in counts.items())
    budget = _MOST_PADDING * sum(costs, np.zeros(2))
    gathered: list[set[Shape]] = []
    for shape in sorted(counts, reverse=True):
        if gathered and max(gathered[-1])[0] == shape[0]:
            padding = counts[shape] * (_cost(max(gathered[-1])) - _cost(shape))
            if (padding <= budget).all():
                budget = budget - padding
                gathered[-1].add(shape)
                continue
        gathered.append({shape})
    return gathered


def _cost(shape: Shape) -> np.ndarray:
    """Returns the numbers in a factor, and the work of inverting it."""
    groups, size, _ = shape
    return groups * np.asarray([size**2, size**3], np.float64)
