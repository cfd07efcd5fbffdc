"""Kronecker factors of all layers: their averages, inverses and use."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from absl import logging
from torch import Tensor, nn

from ..settings import Settings
from . import communication
from .capture import Capture, Sums
from .inverses import damped_inverse, mean_eigenvalue, vanishing_eigenvalue
from .layers import Assignment, KFACLayer, assign_parameters, format_assignments
from .weight_sharing import BatchStructure, ExpandSums, ReduceSums


@dataclasses.dataclass
class LayerState:
    """What K-FAC keeps for a layer.

    Attributes:
      factor_a: Moving average of A, `[groups, d_in, d_in]`, not bias-corrected.
      factor_b: Moving average of B, `[groups, d_out, d_out]`, not bias-corrected.
      averaged_weight: Sum of the weights in the averages, 1 - decay**updates.
      inverse_a: Damped inverse of A; None until there is one.
      inverse_b: Damped inverse of B; None until there is one.
    """

    factor_a: Tensor
    factor_b: Tensor
    averaged_weight: float = 0.0
    inverse_a: Tensor | None = None
    inverse_b: Tensor | None = None


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
        self._states: dict[str, LayerState] = {}
        self._unreached: set[str] = set()
        self.counters = {
            'factor_updates': 0,
            'inverse_updates': 0,
            'skipped_statistics': 0,
            'failed_inverses': 0,
        }
        _log_assignments(self.assignments)

    def is_statistics_step(self, step: int) -> bool:
        """Whether factors are updated in this step.

        The first two steps always are: a zero-initialised output layer hides all
        curvature below it in the first.
        """
        return step <= 1 or step % self._settings.statistics_interval == 0

    def is_inverse_step(self, step: int) -> bool:
        """Whether inverses are updated in this step."""
        return step <= 1 or step % self._settings.inverse_interval == 0

    def capture(self, batch: Mapping[str, Any]) -> Capture:
        """Returns the context in which the passes over a batch are watched."""
        structure = BatchStructure.from_batch(batch)
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

        A layer keeps its averages if it was not reached, if a factor is not finite
        (counted and logged), or if a factor vanishes to floating-point precision:
        the gradient below a zero-initialised layer says nothing about curvature.

        Args:
          capture: The capture of this step, after its backward pass.
          loss_terms: M, the number of terms that the loss averages over.
          gradient_scale: Turns captured gradients into those of the summed loss.
        """
        sums = capture.sums()
        communication.all_reduce_sums(sums)
        self._log_unreached(sums, capture.errors)
        decay = self._settings.factor_decay
        for layer in self.layers:
            if layer.name not in sums:
                continue
            factors = sums[layer.name].kronecker_factors(loss_terms, gradient_scale)
            sizes = torch.stack([mean_eigenvalue(f) for f in factors])
            if not bool(torch.isfinite(torch.stack([f.sum() for f in factors])).all()):
                self.counters['skipped_statistics'] += 1
                logging.warning(
                    'K-FAC: a statistic of layer %s is not finite; its factors stay.',
                    layer.name,
                )
                continue
            if not bool((sizes > vanishing_eigenvalue(sizes.dtype)).all()):
                continue
            state = self._states.get(layer.name)
            if state is None:
                state = LayerState(
                    torch.zeros_like(factors[0]), torch.zeros_like(factors[1])
                )
                self._states[layer.name] = state
            state.factor_a.lerp_(factors[0], 1.0 - decay)
            state.factor_b.lerp_(factors[1], 1.0 - decay)
            state.averaged_weight += (1.0 - decay) * (1.0 - state.averaged_weight)
        self.counters['factor_updates'] += 1

    def _log_unreached(
        self, reached: Mapping[str, Any], errors: Mapping[str, str]
    ) -> None:
        """Says once for each layer that it had no statistics, and why."""
        for layer in self.layers:
            if layer.name in reached or layer.name in self._unreached:
                continue
            self._unreached.add(layer.name)
            reason = errors.get(layer.name, 'the forward pass did not reach it')
            logging.warning(
                'K-FAC: no statistics for layer %s: %s. NAdamW trains it until there '
                'are.',
                layer.name,
                reason,
            )

    @torch.no_grad()
    def update_inverses(self) -> None:
        """Inverts the factors of all layers.

        A layer whose factorisation fails keeps its last good inverse; the failure
        is counted and logged.
        """
        for name, state in self._states.items():
            correction = 1.0 / state.averaged_weight
            inverse_a, good_a = damped_inverse(
                state.factor_a * correction, self._settings.damping
            )
            inverse_b, good_b = damped_inverse(
                state.factor_b * correction, self._settings.damping
            )
            if bool(good_a & good_b):
                state.inverse_a, state.inverse_b = inverse_a, inverse_b
                continue
            self.counters['failed_inverses'] += 1
            kept = 'none yet' if state.inverse_a is None else 'kept'
            logging.warning(
                'K-FAC: the factors of layer %s could not be inverted; last good '
                'inverse: %s.',
                name,
                kept,
            )
        self.counters['inverse_updates'] += 1

    @torch.no_grad()
    def precondition(
        self, layer: KFACLayer, gradients: Sequence[Tensor]
    ) -> list[Tensor]:
        """Multiplies a layer's gradient with the inverse curvature.

        Args:
          layer: The layer.
          gradients: Gradients of its weight and, if it has one, its bias.

        Returns:
          B**-1 G A**-1, split like the gradients; the gradients themselves as long
          as the layer has no inverse.
        """
        state = self._states.get(layer.name)
        if state is None or state.inverse_a is None or state.inverse_b is None:
            return list(gradients)
        matrix = layer.to_matrix(gradients)
        return layer.from_matrix(state.inverse_b @ matrix @ state.inverse_a)

    def state_dict(self) -> dict[str, Any]:
        """Returns the whole state: tensors and plain values, by layer name."""
        return {
            'layers': {
                name: dataclasses.asdict(state) for name, state in self._states.items()
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
        states = {}
        for name, values in state_dict['layers'].items():
            if name not in layers:
                raise ValueError(
                    f'The checkpoint has K-FAC state for layer {name!r}, which the '
                    f'model lacks; it has {", ".join(layers)}.'
                )
            layer = layers[name]
            for key, dim in (('a', layer.input_dim), ('b', layer.output_dim)):
                expected = (layer.groups, dim, dim)
                found = tuple(values[f'factor_{key}'].shape)
                if found != expected:
                    raise ValueError(
                        f'Factor {key.upper()} of layer {name!r} has shape {found} in '
                        f'the checkpoint and {expected} in the model.'
                    )
            on_device: dict[str, Any] = {
                key: value.to(layer.weight.device, copy=True)
                if torch.is_tensor(value)
                else value
                for key, value in values.items()
            }
            states[name] = LayerState(**on_device)
        self._states = states
        self._unreached = set(state_dict['unreached'])
        self.counters = dict(state_dict['counters'])


def _log_assignments(assignments: Sequence[Assignment]) -> None:
    n_kfac = sum(assignment.is_kfac for assignment in assignments)
    logging.info(
        'K-FAC trains %d of %d parameters:\n%s',
        n_kfac,
        len(assignments),
        format_assignments(assignments),
    )
