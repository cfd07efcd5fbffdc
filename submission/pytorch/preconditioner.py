"""Kronecker factors of all layers, and the gradients preconditioned with them."""

import math
from collections.abc import Container, Mapping, Sequence
from typing import Any

import torch
from absl import logging
from torch import Tensor, nn

from ..assignments import log_assignments
from ..settings import Settings
from ..vanishing import TELLING_UPDATES, log_vanished
from . import communication
from .approximations import ExpandSums, ReduceSums
from .capture import Capture, Sums
from .factors import KroneckerFactor, update_averages
from .inverses import vanishing_eigenvalue
from .kfac_layer import KFACLayer
from .layers import assign_parameters
from .sharding import (
    direction_cost,
    in_shares,
    preconditioning_cost,
    sharded_inverses,
    sum_over_processes,
)
from .spectral import SpectralStack
from .stacks import (
    LayerStack,
    S,
    Stack,
    gains_from_stacks,
    make_stacks,
    preconditioned,
)
from .weight_sharing import BatchStructure


class KFACPreconditioner:
    """Preconditions the gradients of linear weight-sharing layers.

    On a statistics step the caller runs the forward and backward pass under
    `capture`, then calls `update_factors`; `update_inverses` follows on inverse
    steps, and `precondition` runs on every step.
    """

    def __init__(self, model: nn.Module, settings: Settings) -> None:
        """Finds the layers and logs who trains which parameter.

        Args:
          model: The model, not wrapped.
          settings: The trial's settings; `approximation` is not `none`.
        """
        self._settings = settings
        self.layers, self.assignments = assign_parameters(
            model, settings.max_factor_dimension
        )
        # Layer name to the factors A (inputs) and B (output gradients).
        self._factors: dict[str, tuple[KroneckerFactor, KroneckerFactor]] = {}
        # Kind of stacks and names of layers to the stacks of these, while the inverses
        # stay as they are.
        self._stacks: dict[tuple[type[LayerStack], tuple[str, ...]], list[Any]] = {}
        self._unreached: set[str] = set()
        self.counters = {
            'factor_updates': 0,
            'inverse_updates': 0,
            'skipped_statistics': 0,
            'failed_inverses': 0,
        }
        log_assignments(self.assignments)

    def capture(self, batch: Mapping[str, Any]) -> Capture:
        """Returns the context in which the passes over a batch are watched.

        Where only some positions are taken, these move on by one with each update.
        """
        stride = self._settings.position_stride
        updates = self.counters['factor_updates']
        device = self.layers[0].weight.device if self.layers else None
        structure = BatchStructure.from_batch(batch, stride, updates, device)
        return Capture(self.layers, structure, self._make_sums)

    def _make_sums(self, layer: KFACLayer) -> Sums:
        has_bias = layer.bias is not None
        if self._settings.approximation == 'expand':
            return ExpandSums(has_bias)
        return ReduceSums(has_bias, self._settings.reduce_normalisation)

    @torch.no_grad()
    def update_factors(
        self,
        capture: Capture,
        loss_terms: Tensor | float,
        gradient_scale: Tensor | float,
    ) -> None:
        """Moves the averages of the factors towards the captured ones.

        A layer keeps its averages if it was not reached, if its rows were ambiguous,
        or if a statistic is not finite (counted and logged). A factor keeps its
        average if its statistic vanishes to floating-point precision: the gradient
        below a zero-initialised layer says nothing about curvature, nor does one that
        always cancels over positions (logged after some updates). All processes
        take part with what their part of the batch reached, and all do the same.

        Args:
          capture: The capture of this step, after its backward pass.
          loss_terms: M, the number of terms that the loss averages over.
          gradient_scale: Turns captured gradients into those of the summed loss.
        """
        sums, usable = sum_over_processes(self.layers, capture.sums(), capture.errors)
        statistics = {
            name: layer_sums.kronecker_factors(loss_terms, gradient_scale)
            for name, layer_sums in sums.items()
        }
        sizes = _sizes(statistics, usable)
        self._log_missing(sizes, capture.errors)
        changing: list[KroneckerFactor] = []
        towards: list[Tensor] = []
        for name, layer_sizes in sizes.items():
            if not all(math.isfinite(size) for size in layer_sizes):
                self.counters['skipped_statistics'] += 1
                logging.warning(
                    'K-FAC: a statistic of layer %s is not finite; its factors stay.',
                    name,
                )
                continue
            if name not in self._factors:
                self._factors[name] = (KroneckerFactor(), KroneckerFactor())
            for factor, statistic, size in zip(
                self._factors[name], statistics[name], layer_sizes, strict=True
            ):
                if size > vanishing_eigenvalue(statistic.dtype):
                    changing.append(factor)
                    towards.append(statistic)
        update_averages(changing, towards, self._settings.factor_decay)
        self.counters['factor_updates'] += 1
        if self.counters['factor_updates'] == TELLING_UPDATES:
            self._log_vanished()

    def _log_vanished(self) -> None:
        """Says which factors have had no statistic that did not vanish."""
        for name, pair in self._factors.items():
            for side, factor in zip('AB', pair, strict=True):
                if factor.moving_average is None:
                    log_vanished(side, name)

    def _log_missing(self, found: Container[str], errors: Mapping[str, str]) -> None:
        """Says once for each layer that it had no statistics, and why."""
        for layer in self.layers:
            if layer.name in found or layer.name in self._unreached:
                continue
            self._unreached.add(layer.name)
            reason = (
                'no input or no output gradient of it was seen (under '
                'torch.utils.checkpoint there is only with use_reentrant=False)'
            )
            if communication.is_distributed():
                reason += ', or not all processes could tell its rows apart'
            logging.warning(
                'K-FAC: no statistics for layer %s: %s. Its gradient is used as it is '
                'until there are.',
                layer.name,
                errors.get(layer.name, reason),
            )

    @torch.no_grad()
    def update_inverses(self) -> None:
        """Inverts the factors of all layers, shared out among the processes.

        A factor that cannot be inverted keeps its last good inverse; the failure is
        counted and logged.
        """
        pending = [
            (f'factor {side} of layer {name}', factor)
            for name, pair in self._factors.items()
            for side, factor in zip('AB', pair, strict=True)
            if factor.moving_average is not None
        ]
        inverses = sharded_inverses(
            [factor for _, factor in pending],
            self._settings.damping,
            as_roots=self._settings.keeps_inverse_roots,
        )
        # One transfer for all, since each waits for the device.
        flags = [inverse.succeeded for inverse in inverses]
        succeeded = torch.stack(flags).tolist() if flags else []
        for (title, factor), new, is_good in zip(
            pending, inverses, succeeded, strict=True
        ):
            if is_good:
                factor.renew(new.matrix, new.scale, self._settings.keeps_inverse_roots)
                continue
            self.counters['failed_inverses'] += 1
            logging.warning(
                'K-FAC: %s could not be inverted; last good inverse: %s.',
                title,
                'none yet' if factor.inverted_scale is None else 'kept',
            )
        self._stacks = {}
        self.counters['inverse_updates'] += 1

    @torch.no_grad()
    def precondition(
        self, layer: KFACLayer, gradients: Sequence[Tensor]
    ) -> list[Tensor]:
        """Multiplies a layer's gradient with the inverse curvature, but for its scale.

        The curvature of a layer can change by orders of magnitude within a few
        updates. A rule with a memory of gradient sizes, such as NAdamW, would take
        that for gradients that grow or shrink; in units of the mean eigenvalues the
        preconditioned gradient keeps the scale of the gradient.

        Args:
          layer: The layer.
          gradients: Gradients of its weight and, if it has one, its bias.

        Returns:
          m_a m_b B**-1 G A**-1, m the factors' mean eigenvalues, split like the
          gradients. A side without an inverse is left out.
        """
        if layer.name not in self._factors:
            return list(gradients)
        factor_a, factor_b = self._factors[layer.name]
        matrix = layer.to_matrix(gradients)
        return layer.from_matrix(
            preconditioned(
                matrix, factor_a.current_inverse(), factor_b.current_inverse()
            )
        )

    @torch.no_grad()
    def precondition_all(
        self, gradients: Sequence[tuple[KFACLayer, Sequence[Tensor]]]
    ) -> list[list[Tensor]]:
        """Preconditions several layers, together where that is faster.

        They are shared out among the processes.

        Args:
          gradients: Layers, the same in all processes, each with the gradients of its
            weight and, if it has one, its bias.

        Returns:
          What `precondition` returns, for each layer.
        """
        given = {layer.name: parts for layer, parts in gradients}

        def compute(layers: Sequence[KFACLayer]) -> dict[str, Tensor]:
            together = [
                layer
                for layer in layers
                if layer.name in self._factors
                and gains_from_stacks(layer)
                and not self._settings.keeps_inverse_roots
            ]
            outcomes: dict[str, Sequence[Tensor]] = {}
            for stack in self._stacks_of(Stack, together):
                found = stack.precondition(
                    [given[layer.name] for layer in stack.layers]
                )
                for layer, outcome in zip(stack.layers, found, strict=True):
                    outcomes[layer.name] = outcome
            for layer in layers:
                if layer.name not in outcomes:
                    outcomes[layer.name] = self.precondition(layer, given[layer.name])
            return _by_parameter(layers, outcomes)

        layers = [layer for layer, _ in gradients]
        preconditioned = in_shares(
            compute,
            layers,
            preconditioning_cost,
            _by_parameter(layers, given),
            'preconditioned gradients',
        )
        return [
            [preconditioned[name] for name in layer.parameter_names] for layer in layers
        ]

    def _stacks_of(self, kind: type[S], layers: Sequence[KFACLayer]) -> list[S]:
        key = kind, tuple(layer.name for layer in layers)
        if key not in self._stacks:
            # Those of one set of layers at a time: it hardly ever changes, and each
            # has joined inverses of its own.
            factors = [
                self._factors.get(layer.name, (KroneckerFactor(), KroneckerFactor()))
                for layer in layers
            ]
            self._stacks = {key: make_stacks(kind, layers, factors)}
        return self._stacks[key]

    @torch.no_grad()
    def spectral_directions(
        self,
        layers: Sequence[KFACLayer],
        momenta: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Returns directions of steepest descent under the spectral norm.

        The layers are shared out among the processes.

        Args:
          layers: The layers, the same in all processes.
          momenta: The momenta of the gradients by parameter name, of every layer that
            of its weight or its bias.
          gradients: The gradients themselves; a layer moves where one is not zero.

        Returns:
          The directions, see `submission.spectral`, of the parameters that have a
          momentum. A side without an inverse counts as the identity.
        """

        def parts_of(layer: KFACLayer, named: Mapping[str, Tensor]) -> Sequence[Tensor]:
            # A bias that the forward pass leaves out has none.
            return [
                named[name] if name in named else torch.zeros_like(parameter)
                for name, parameter in zip(
                    layer.parameter_names, layer.parameters, strict=True
                )
            ]

        def compute(layers: Sequence[KFACLayer]) -> dict[str, Tensor]:
            directions: dict[str, Sequence[Tensor]] = {}
            for stack in self._stacks_of(SpectralStack, layers):
                found = stack.directions(
                    [parts_of(layer, momenta) for layer in stack.layers],
                    [parts_of(layer, gradients) for layer in stack.layers],
                )
                for layer, parts in zip(stack.layers, found, strict=True):
                    directions[layer.name] = parts
            return _by_parameter(layers, directions)

        covered = {name for layer in layers for name in layer.parameter_names}
        like = {name: momenta[name] for name in momenta if name in covered}
        return in_shares(
            compute, layers, direction_cost, like, 'directions of the spectral rule'
        )

    def curvature_scale(self, layer: KFACLayer) -> Tensor | None:
        """Returns the mean eigenvalue m_a m_b of a layer's curvature block.

        A preconditioned gradient divided by it is the direction of K-FAC at its
        natural scale. None if a side has no inverse yet.
        """
        if layer.name not in self._factors:
            return None
        factor_a, factor_b = self._factors[layer.name]
        if factor_a.inverted_scale is None or factor_b.inverted_scale is None:
            return None
        return factor_a.inverted_scale * factor_b.inverted_scale

    def state_dict(self) -> dict[str, Any]:
        """Returns the whole state: tensors and plain values, by layer name."""
        return {
            'layers': {
                name: {'a': factor_a.state_dict(), 'b': factor_b.state_dict()}
                for name, (factor_a, factor_b) in self._factors.items()
            },
            'unreached': sorted(self._unreached),
            'counters': dict(self.counters),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores the state, bit for bit, on the devices of the parameters.

        Raises:
          ValueError: If a layer or a shape does not fit the model.
        """
        layers = {layer.name: layer for layer in self.layers}
        restored = {}
        for name, sides in state_dict['layers'].items():
            if name not in layers:
                raise ValueError(
                    f'The checkpoint has K-FAC state for layer {name!r}, which the '
                    f'model lacks; it has {", ".join(layers)}.'
                )
            layer = layers[name]
            device = layer.weight.device
            factor_a = KroneckerFactor.from_state_dict(sides['a'], device)
            factor_b = KroneckerFactor.from_state_dict(sides['b'], device)
            for side, factor, dim in (
                ('A', factor_a, layer.input_dim),
                ('B', factor_b, layer.output_dim),
            ):
                factor.keep_one(self._settings.keeps_inverse_roots)
                expected = (layer.groups, dim, dim)
                average = factor.moving_average
                if average is not None and tuple(average.shape) != expected:
                    raise ValueError(
                        f'Factor {side} of layer {name!r} has shape '
                        f'{tuple(average.shape)} in the checkpoint and {expected} in '
                        'the model.'
                    )
            restored[name] = (factor_a, factor_b)
        self._factors, self._stacks = restored, {}
        self._unreached = set(state_dict['unreached'])
        self.counters = dict(state_dict['counters'])


def _by_parameter(
    layers: Sequence[KFACLayer], parts: Mapping[str, Sequence[Tensor]]
) -> dict[str, Tensor]:
    """Returns parts by parameter name, from those of each layer by its name."""
    return {
        name: part
        for layer in layers
        for name, part in zip(layer.parameter_names, parts[layer.name], strict=True)
    }


def _sizes(
    statistics: Mapping[str, tuple[Tensor, Tensor]], usable: Tensor
) -> dict[str, tuple[float, float]]:
    """Returns the sizes of A and B, not finite if any entry is not.

    The size is the sum of all magnitudes divided by d, which is between the mean
    eigenvalue and d times it. All travel from the device together, since each transfer
    waits for it.

    Args:
      statistics: Layer name to A and B.
      usable: Whether they are to be used, in the order of `statistics`.

    Returns:
      Layer name to both sizes, where the statistics are to be used.
    """
    if not statistics:
        return {}
    factors = [factor for pair in statistics.values() for factor in pair]
    sums = torch.stack(torch._foreach_norm(factors, ord=1))
    values = torch.cat([sums, usable]).tolist()
    for index, factor in enumerate(factors):
        values[index] /= factor.shape[-1]
    n = len(statistics)
    return {
        name: (size_a, size_b)
        for name, size_a, size_b, is_usable in zip(
            statistics,
            values[: 2 * n : 2],
            values[1 : 2 * n : 2],
            values[2 * n :],
            strict=True,
        )
        if is_usable
    }
