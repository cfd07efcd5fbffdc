"""Kronecker factors of all layers, and the gradients preconditioned with them."""

import collections
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import logging

from ..assignments import log_assignments
from ..settings import Settings
from .approximations import ExpandSums, FactorSums, ReduceSums, Sums
from .capture import Capture
from .factors import KroneckerFactor
from .inverses import damped_inverses, mean_eigenvalue
from .layers import Application, KFACLayer, assign_parameters
from .naming import flatten, unflatten
from .weight_sharing import BatchStructure

COUNTERS = (
    'factor_updates',
    'inverse_updates',
    'skipped_statistics',
    'failed_inverses',
)


class KFACState(NamedTuple):
    """What K-FAC remembers between steps.

    Attributes:
      factors: Layer name to its factors, 'a' (inputs) and 'b' (output gradients).
      counters: Counts of what happened, int32 scalars by name.
    """

    factors: dict[str, dict[str, KroneckerFactor]]
    counters: dict[str, jax.Array]


class KFACPreconditioner:
    """Preconditions the gradients of linear weight-sharing layers.

    Its methods are pure functions of a `KFACState`, to be called in a compiled step.
    On a statistics step the caller runs the passes by `capture`, then calls
    `update_factors`; `update_inverses` follows on inverse steps, and `precondition`
    runs on every step.
    """

    def __init__(
        self,
        parameter_shapes: Mapping[str, tuple[int, ...]],
        applications: Mapping[str, Application],
        settings: Settings,
    ) -> None:
        """Finds the layers and logs who trains which parameter.

        Args:
          parameter_shapes: Parameter name, parts joined by '/', to shape.
          applications: The model's modules, from `find_applications`.
          settings: The trial's settings; `approximation` is not `none`.
        """
        self._settings = settings
        self.layers, self.assignments = assign_parameters(
            parameter_shapes, applications, settings.max_factor_dimension
        )
        self._unreached: set[str] = set()
        log_assignments(self.assignments)

    def init(self, params: Any) -> KFACState:
        """Returns the state before the first statistics."""
        dtype = jnp.result_type(*jax.tree.leaves(params))
        factors = {
            layer.name: {
                'a': KroneckerFactor.empty(layer.groups, layer.input_dim, dtype),
                'b': KroneckerFactor.empty(layer.groups, layer.output_dim, dtype),
            }
            for layer in self.layers
        }
        return KFACState(factors, {name: jnp.zeros((), jnp.int32) for name in COUNTERS})

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
        """Returns what watches the passes over a batch."""
        structure = BatchStructure.from_batch(batch)
        return Capture(self.layers, structure, self._sums())

    def _sums(self) -> Sums:
        if self._settings.approximation == 'expand':
            return ExpandSums()
        return ReduceSums(self._settings.reduce_normalisation)

    def update_factors(
        self,
        state: KFACState,
        sums: Mapping[str, FactorSums],
        loss_terms: jax.Array | float,
        gradient_scale: jax.Array | float,
    ) -> KFACState:
        """Moves the averages of the factors towards the captured ones.

        A layer keeps its averages if it was not reached, or if a statistic is not
        finite (counted). A factor keeps its average if its statistic vanishes to
        floating-point precision: the gradient below a zero-initialised layer says
        nothing about curvature.

        Args:
          state: The state so far.
          sums: Layer name to the captured sums.
          loss_terms: M, the number of terms that the loss averages over.
          gradient_scale: Turns captured gradients into those of the summed loss.
        """
        decay = self._settings.factor_decay
        factors = dict(state.factors)
        skipped = jnp.zeros((), jnp.int32)
        for name, layer_sums in sums.items():
            statistics = layer_sums.kronecker_factors(loss_terms, gradient_scale)
            # A sum is finite only if all entries are.
            finite = jnp.isfinite(statistics[0].sum() + statistics[1].sum())
            factors[name] = {
                side: factor.update(statistic, decay, finite)
                for (side, factor), statistic in zip(
                    sorted(state.factors[name].items()), statistics, strict=True
                )
            }
            skipped += ~finite
        return KFACState(
            factors,
            _counted(state.counters, factor_updates=1, skipped_statistics=skipped),
        )

    def log_unreached(self, capture: Capture, reached: Mapping[str, Any]) -> None:
        """Says once for each layer that it has no statistics, and why."""
        for layer in self.layers:
            if layer.name in reached or layer.name in self._unreached:
                continue
            self._unreached.add(layer.name)
            reason = capture.errors.get(
                layer.name, 'the forward pass does not reach it'
            )
            logging.warning(
                'K-FAC: no statistics for layer %s: %s. Its gradient is used as it is.',
                layer.name,
                reason,
            )

    def update_inverses(self, state: KFACState) -> KFACState:
        """Inverts the factors of all layers, those of equal shape together.

        A factor that cannot be inverted keeps its last good inverse, and the failure
        is counted.
        """
        by_shape: dict[tuple[int, ...], list[tuple[str, str]]] = (
            collections.defaultdict(list)
        )
        for name, sides in state.factors.items():
            for side, factor in sides.items():
                by_shape[factor.moving_average.shape].append((name, side))
        factors: dict[str, dict[str, KroneckerFactor]] = {
            name: {} for name in state.factors
        }
        failed = jnp.zeros((), jnp.int32)
        for members in by_shape.values():
            averages = [
                state.factors[name][side].bias_corrected() for name, side in members
            ]
            inverses, succeeded = damped_inverses(
                jnp.stack(averages), self._settings.damping
            )
            for i, (name, side) in enumerate(members):
                factor = state.factors[name][side]
                has_statistics = factor.averaged_weight > 0
                renew = succeeded[i] & has_statistics
                factors[name][side] = factor._replace(
                    inverse=jnp.where(renew, inverses[i], factor.inverse),
                    inverted_scale=jnp.where(
                        renew, mean_eigenvalue(averages[i]), factor.inverted_scale
                    ),
                )
                failed += has_statistics & ~succeeded[i]
        return KFACState(
            factors, _counted(state.counters, inverse_updates=1, failed_inverses=failed)
        )

    def precondition(
        self, state: KFACState, gradients: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """Multiplies gradients with the inverse curvature, but for its scale.

        The curvature of a layer can change by orders of magnitude within a few
        updates. A rule with a memory of gradient sizes, such as NAdamW, would take
        that for gradients that grow or shrink; in units of the mean eigenvalues the
        preconditioned gradient keeps the scale of the gradient.

        Args:
          state: The state; a side of a layer without an inverse is left out.
          gradients: Parameter name to gradient, all parameters.

        Returns:
          m_a m_b B**-1 G A**-1, m the factors' mean eigenvalues, for the layers, and
          the other gradients as they are.
        """
        preconditioned = dict(gradients)
        for layer in self.layers:
            factors = state.factors[layer.name]
            matrix = layer.to_matrix([gradients[n] for n in layer.parameter_names])
            matrix = _product(factors['b'].inverse, matrix)
            matrix = _product(matrix, factors['a'].inverse)
            parts = layer.from_matrix(matrix)
            preconditioned.update(zip(layer.parameter_names, parts, strict=True))
        return preconditioned

    def curvature_scale(self, state: KFACState, layer: KFACLayer) -> jax.Array:
        """Returns the mean eigenvalue m_a m_b of a layer's curvature block.

        A preconditioned gradient divided by it is the direction of K-FAC at its
        natural scale. Zero if a side has no inverse yet.
        """
        factors = state.factors[layer.name]
        return factors['a'].inverted_scale * factors['b'].inverted_scale

    def transformation(self) -> optax.GradientTransformationExtraArgs:
        """Returns the preconditioner as an optax transformation, for `optax.chain`.

        Its `update` takes, besides gradients, the keyword arguments `sums` (layer
        name to factor sums, None between statistics steps), `loss_terms`,
        `gradient_scale` and `renew_inverses`.
        """

        def update(
            updates: Any,
            state: KFACState,
            params: Any = None,
            *,
            sums: Mapping[str, FactorSums] | None = None,
            loss_terms: jax.Array | float = 1.0,
            gradient_scale: jax.Array | float = 1.0,
            renew_inverses: bool | jax.Array = False,
            **unused: Any,
        ) -> tuple[Any, KFACState]:
            del params, unused
            if sums is not None:
                state = self.update_factors(state, sums, loss_terms, gradient_scale)
                state = jax.lax.cond(
                    renew_inverses, self.update_inverses, lambda same: same, state
                )
            preconditioned = self.precondition(state, flatten(updates))
            return unflatten(preconditioned, updates), state

        return optax.GradientTransformationExtraArgs(self.init, update)


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    """Multiplies `[groups, ...]` matrices; one group is a plain product."""
    if left.shape[0] == 1:
        # Batched products are slow on CPUs.
        return (left[0] @ right[0])[None]
    return left @ right


def _counted(
    counters: Mapping[str, jax.Array], **increments: jax.Array | int
) -> dict[str, jax.Array]:
    return {name: count + increments.get(name, 0) for name, count in counters.items()}
