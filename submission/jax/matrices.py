"""The gradients of layers as matrices, those of one shape in one array."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from .kfac_layer import KFACLayer

Stacks = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class MatrixStacks:
    """Which layers' matrices share an array.

    A compiler takes its time for each operation, and an accelerator for each launch:
    what is done with the matrices of layers of one shape is done once.

    Attributes:
      layers: Name of a stack to the layers in it, in order.
    """

    layers: Mapping[str, tuple[KFACLayer, ...]]

    @classmethod
    def of(cls, layers: Iterable[KFACLayer]) -> 'MatrixStacks':
        """Gathers layers by the shape of their matrices."""
        by_shape: dict[str, list[KFACLayer]] = {}
        for layer in sorted(layers, key=lambda layer: layer.name):
            shape = layer.groups, layer.output_dim, layer.input_dim
            by_shape.setdefault('layers_{}x{}x{}'.format(*shape), []).append(layer)
        return cls({name: tuple(members) for name, members in by_shape.items()})

    @functools.cached_property
    def parameter_names(self) -> frozenset[str]:
        """Names of all parameters of the layers."""
        return frozenset(
            name
            for layers in self.layers.values()
            for layer in layers
            for name in layer.parameter_names
        )

    def gather(self, named: Mapping[str, jax.Array]) -> Stacks:
        """Returns the matrices of all layers.

        Args:
          named: Parameter name to what becomes a part of its layer's matrix.

        Returns:
          Name of a stack to matrices `[layers, groups, d_out, d_in]`.
        """
        return {
            stack: jnp.stack(
                [
                    layer.to_matrix([named[name] for name in layer.parameter_names])
                    for layer in layers
                ]
            )
            for stack, layers in self.layers.items()
        }

    def split(self, stacks: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Undoes `gather`."""
        named: dict[str, jax.Array] = {}
        for stack, layers in self.layers.items():
            for layer, matrix in zip(layers, stacks[stack], strict=True):
                parts = layer.from_matrix(matrix)
                named.update(zip(layer.parameter_names, parts, strict=True))
        return named
