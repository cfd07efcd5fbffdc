"""The parts of a K-FAC step, as operations on one of several devices."""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from experiments.cost_model.models import Layer, Model
from experiments.cost_model.operations import FLOAT_BYTES, Operation, Part, pointwise
from submission.pytorch.approximations import gram_blocks
from submission.pytorch.sharding import (
    balanced_owners,
    direction_cost,
    preconditioning_cost,
)
from submission.settings import Settings
from submission.spectral import ITERATIONS

# Reads and writes of one array of parameter size by NAdamW as `first_order` and
# `moments` write it: two interpolations (3 each), square (3), the two quotients (3 and
# 2), root, bias correction, epsilon, decay (2 each), norm (1), both updates (2 and 3).
_NADAMW_PASSES = 28
_NADAMW_KERNELS = 13
# Numbers that the rule works out besides: norms, corrections, whether all is finite.
_NADAMW_SCALARS = 24

Item = TypeVar('Item')


@dataclasses.dataclass(frozen=True)
class StepCost:
    """The parts of a step on one of several devices.

    Attributes:
      model: The model.
      devices: Number of devices, each with an equal share of the batch.
      on_cpu: Whether they are CPUs, or else accelerators.
      statistics_stride: K-FAC-expand takes one in this many positions of each example.
    """

    model: Model
    devices: int = 1
    on_cpu: bool = False
    statistics_stride: int = Settings().statistics_stride

    @property
    def examples(self) -> float:
        """Examples on each device."""
        return self.model.batch_size / self.devices

    def _rows(self, layer: Layer) -> float:
        return self.examples * layer.positions

    def _taken_rows(self, layer: Layer) -> float:
        """Rows that K-FAC-expand takes into a layer's factors."""
        if self.statistics_stride == 1:
            return self._rows(layer)
        return self.examples * math.ceil(layer.positions / self.statistics_stride)

    def _taking(self, layer: Layer, dim: int) -> Iterator[Operation]:
        """Copies the taken rows together."""
        rows = self._taken_rows(layer)
        if rows < self._rows(layer):
            yield pointwise(rows * dim, passes=2)

    def _on_examples(self, part: Part) -> Part:
        return tuple(operation.on_examples(self.examples) for operation in part)

    def _product(self, layer: Layer) -> Operation:
        """A layer's rows times its weight; its two backward products cost the same."""
        rows = self._rows(layer)
        traffic = rows * (layer.d_in + layer.d_out) + layer.parameters
        return Operation(
            'rows', 2 * rows * layer.d_in * layer.d_out, FLOAT_BYTES * traffic
        ).times(layer.count)

    def forward(self) -> Part:
        """The forward pass."""
        model = self.model
        layers = tuple(self._product(layer) for layer in model.layers)
        return layers + self._on_examples(model.products + model.elementwise)

    def _backward_to_outputs(self) -> Part:
        """Brings gradients to the layers' outputs, and no further."""
        model = self.model
        layers = tuple(self._product(la) for la in model.layers if la.input_gradient)
        products = tuple(product.times(2) for product in model.products)
        return layers + self._on_examples(products + model.elementwise_backward)

    def backward(self) -> Part:
        """The backward pass, weight gradients included."""
        weights = tuple(self._product(layer) for layer in self.model.layers)
        biases = tuple(
            # The sum of all rows.
            pointwise(self._rows(layer) * layer.d_out, passes=1).times(layer.count)
            for layer in self.model.layers
            if layer.bias
        )
        return weights + biases + self._backward_to_outputs()

    def gradient_all_reduce(self) -> Part:
        """The average of gradients over devices."""
        return self._all_reduce(self.model.parameters)

    def first_order_rule(self) -> Part:
        """NAdamW on all parameters."""
        n = self.model.parameters
        traffic = _NADAMW_PASSES * FLOAT_BYTES * n
        return (
            Operation(
                'pointwise',
                0,
                traffic,
                kernels=_NADAMW_KERNELS,
                tensors=self.model.parameter_tensors,
            ),
            # Gradients of a step that does not count are put aside one by one.
            pointwise(n, passes=2, kernels=self.model.parameter_tensors),
            Operation('pointwise', 0, 0, kernels=_NADAMW_SCALARS),
        )

    def extra_backward(self) -> Part:
        """The Monte-Carlo Fisher's backward pass, to the layers' outputs only."""
        return self._backward_to_outputs()

    def factors(self, approximation: str) -> Part:
        """Sums of outer products, and the moving averages of the factors."""
        part: list[Operation] = []
        for layer in self.model.layers:
            own = [*self._input_sums(layer, approximation)]
            own += self._gradient_sums(layer, approximation)
            for dim in layer.factor_dims:
                # Scaling, check for finiteness, moving average.
                own.append(pointwise(dim**2, passes=2 + 1 + 3, kernels=9))
            part += [operation.times(layer.count) for operation in own]
        return tuple(part)

    def _input_sums(self, layer: Layer, approximation: str) -> Iterator[Operation]:
        rows, dim = self._rows(layer), layer.factor_dims[0]
        if approximation == 'expand':
            if layer.unfolded:
                yield pointwise(rows * layer.d_in, passes=2)
            yield from self._taking(layer, layer.d_in)
            taken = self._taken_rows(layer)
            yield self._gram(taken, layer.d_in)
            if layer.bias:
                # The bias's row is the sum of all that are taken.
                yield pointwise(taken * layer.d_in, passes=1, kernels=18)
        else:
            if layer.positions != 1:
                # The sum over positions reads all rows and writes one an example.
                yield pointwise(rows * layer.d_in, passes=1)
            # The bias's column, and the average.
            yield pointwise(self.examples * dim, passes=4, kernels=18)
            yield self._gram(self.examples, dim)

    def _gradient_sums(self, layer: Layer, approximation: str) -> Iterator[Operation]:
        rows = self._rows(layer)
        if approximation == 'expand':
            yield from self._taking(layer, layer.d_out)
            yield self._gram(self._taken_rows(layer), layer.d_out)
        else:
            # The sum over positions, and the norm that tells rounding from gradient.
            passes = 1 if layer.positions == 1 else 2
            yield pointwise(rows * layer.d_out, passes, kernels=10)
            yield self._gram(self.examples, layer.d_out)

    def _gram(self, rows: float, dim: int) -> Operation:
        traffic = FLOAT_BYTES * (2 * rows * dim + dim**2)
        computed = sum(
            (stop - start) * (dim - start)
            for start, stop in gram_blocks(int(rows), dim, self.on_cpu)
        )
        return Operation('gram', 2 * rows * computed, traffic)

    def factor_all_reduce(self) -> Part:
        """The sum of statistics over devices; of each factor, half and diagonal."""
        return self._all_reduce(sum(d * (d + 1) / 2 for d in self.model.factor_dims))

    def inverses(self) -> Part:
        """Cholesky inverses; those of the device with the most work."""
        return tuple(
            # The factorisation takes d**3 / 3, the inverse from it 2 d**3 / 3.
            Operation(
                'inverse',
                dim**3,
                8 * FLOAT_BYTES * dim**2,
                # Scale, damping, factorisation, inverse, and a check of each.
                kernels=12,
                columns=dim,
            )
            for dim in largest_share(
                self.model.factor_dims, self.devices, lambda dim: dim**3
            )
        )

    def broadcast(self) -> Part:
        """Each inverse travels from its device to all others."""
        if self.devices == 1:
            return ()
        entries = sum(dim**2 for dim in self.model.factor_dims)
        sent = FLOAT_BYTES * entries * (self.devices - 1) / self.devices
        return (Operation('pointwise', 0, 2 * FLOAT_BYTES * entries, sent),)

    def preconditioning(self) -> Part:
        """Two small products a layer."""
        return self._in_shares(
            preconditioning_cost, _both_sides, together=not self.on_cpu
        )

    def spectral_directions(self) -> Part:
        """The spectral rule, in the place of `preconditioning`.

        Roots on both sides, before and after the polar factor.
        """
        return self._in_shares(
            direction_cost,
            lambda layer: (*2 * _both_sides(layer), *_polar_factor(layer)),
            together=True,
        )

    def _in_shares(
        self,
        cost: Callable[[int, int, int], int],
        work: Callable[[Layer], Part],
        *,
        together: bool,
    ) -> Part:
        """The work on the layers of the device with the most; all get what comes of it.

        Args:
          cost: By which layers are shared out, of groups, d_out and d_in.
          work: What a layer takes.
          together: Whether layers of equal shape share their kernels.
        """
        layers = [layer for layer in self.model.layers for _ in range(layer.count)]
        own = largest_share(
            layers,
            self.devices,
            lambda layer: cost(1, *reversed(layer.factor_dims)),
        )
        counts = collections.Counter(layer.factor_dims for layer in own)
        part: Part = ()
        for layer in own:
            share = 1 / counts[layer.factor_dims] if together else 1
            part += tuple(
                dataclasses.replace(operation, kernels=operation.kernels * share)
                for operation in work(layer)
            )
        if self.devices == 1:
            return part
        size = FLOAT_BYTES * sum(layer.parameters for layer in layers)
        sent = size * (self.devices - 1) / self.devices
        return (*part, Operation('pointwise', 0, 2 * size, sent))

    def _all_reduce(self, entries: float) -> Part:
        """A ring: each device sends nearly everything twice."""
        if self.devices == 1:
            return ()
        size = FLOAT_BYTES * entries
        sent = 2 * size * (self.devices - 1) / self.devices
        return (Operation('pointwise', 0, 2 * size, sent),)

    def parts(self, approximation: str) -> dict[str, Part]:
        """Returns all parts by name, in the order of a step."""
        return {
            'forward': self.forward(),
            'backward': self.backward(),
            'gradient all-reduce': self.gradient_all_reduce(),
            'extra backward': self.extra_backward(),
            'factors': self.factors(approximation),
            'factor all-reduce': self.factor_all_reduce(),
            'inverses': self.inverses(),
            'broadcast': self.broadcast(),
            'preconditioning': self.preconditioning(),
            'spectral directions': self.spectral_directions(),
            'first-order rule': self.first_order_rule(),
        }


def _both_sides(layer: Layer) -> Part:
    """Products with a matrix on either side."""
    a, b = layer.factor_dims
    left = FLOAT_BYTES * (b * b + 2 * a * b)
    right = FLOAT_BYTES * (a * a + 2 * a * b)
    return (
        Operation('square', 2 * b * b * a, left),
        Operation('square', 2 * b * a * a, right),
        # Weight and bias are joined before and split after.
        pointwise(a * b, passes=4, kernels=7),
    )


def _polar_factor(layer: Layer) -> Part:
    """The iteration of the spectral rule, and the size of what comes of it."""
    small, large = sorted(layer.factor_dims)
    entries, square = small * large, small**2
    product = Operation(
        'square', 2 * square * large, FLOAT_BYTES * (2 * entries + square)
    )
    squared = Operation('square', 2 * small**3, FLOAT_BYTES * 3 * square)
    # The matrix times a number, and a product added to it.
    added = pointwise(entries, passes=2 + 3, kernels=2)
    # Largest entry, norm, quotients by both, and the update's size and scale.
    sizes = pointwise(entries, passes=1 + 1 + 2 * 2 + 2 + 2, kernels=12)
    return (*ITERATIONS * (product, squared, product, added), sizes)


def largest_share(
    items: Sequence[Item], devices: int, cost: Callable[[Item], int]
) -> list[Item]:
    """Spreads work over devices; returns the largest share.

    As the submission does.

    Args:
      items: The pieces.
      devices: Number of devices.
      cost: What a piece takes.
    """
    items = sorted(items, key=cost, reverse=True)
    costs = [cost(item) for item in items]
    owners = balanced_owners(costs, devices)
    loads = [0] * devices
    for owner, taken in zip(owners, costs, strict=True):
        loads[owner] += taken
    largest = loads.index(max(loads))
    return [item for item, owner in zip(items, owners, strict=True) if owner == largest]
