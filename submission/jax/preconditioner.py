"""Kronecker factors of all layers, and the gradients preconditioned with them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import logging

from ..assignments import log_assignments
from ..settings import Settings
from ..vanishing import TELLING_UPDATES, log_vanished
from .approximations import ExpandSums, FactorSums, ReduceSums, Sums
from .capture import Capture
from .factors import KroneckerFactors
from .kfac_layer import KFACLayer
from .layers import Application, assign_parameters
from .matrices import MatrixStacks, Stacks
from .naming import flatten, unflatten
from .products import by_member
from .spectral import directions
from .weight_sharing import BatchStructure, sums_dtype

COUNTERS = (
    'factor_updates',
    'inverse_updates',
    'skipped_statistics',
    'failed_inverses',
)


class KFACState(NamedTuple):
    """What K-FAC remembers between steps.

    Attributes:
      factors: The Kronecker factors of all layers.
      counters: Counts of what happened, int32 scalars by name.
    """

    factors: KroneckerFactors
    counters: dict[str, jax.Array]


class KFACPreconditioner:
    """Preconditions the gradients of linear weight-sharing layers.

    Its methods are pure functions of a `KFACState`, to be called in a compiled step.
    On a statistics step the caller runs the passes by `capture`, then calls
    `update_factors`; `update_inverses` follows in steps with new inverses, and
    `precondition` in every step.
    """

    def __init__(
        self,
        parameter_shapes: Mapping[str, tuple[int, ...]],
        applications: Mapping[str, Application],
        settings: Settings,
        on_all_devices: bool = False,
    ) -> None:
        """Finds the layers and logs who trains which parameter.

        Args:
          parameter_shapes: Parameter name, parts joined by '/', to shape.
          applications: The model's modules, from `find_applications`.
          settings: The trial's settings; `approximation` is not `none`.
          on_all_devices: Whether state and gradients are replicated over all devices,
            each of which then inverts a share of the factors and preconditions a share
            of the gradients.

        Raises:
          ValueError: If the names are those of all of a model's variables.
        """
        if 'params' not in applications and any(
            name.startswith('params/') for name in parameter_shapes
        ):
            raise ValueError(
                "K-FAC got parameters named 'params/...', and no module of that name "
                'is called by the model. Of what `model.init` returns, give '
                "variables['params'], here and to the optimizer."
            )
        self._settings = settings
        self._on_all_devices = on_all_devices
        self.layers, self.assignments = assign_parameters(
            parameter_shapes, applications, settings.max_factor_dimension
        )
        self.stacks = MatrixStacks.of(self.layers)
        self._unreached: set[str] = set()
        self._is_vanishing_logged = False
        log_assignments(self.assignments)
        if not self.layers:
            logging.warning(
                'K-FAC found no layer that it can train: all gradients are used as '
                'they are. The table above says why.'
            )

    def init(self, params: Any) -> KFACState:
        """Returns the state before the first statistics."""
        dtype = sums_dtype(jnp.result_type(*jax.tree.leaves(params)))
        shapes = {}
        for layer in self.layers:
            for side, d in (('a', layer.input_dim), ('b', layer.output_dim)):
                shapes[f'{layer.name}/{side}'] = (layer.groups, d, d)
        return KFACState(
            KroneckerFactors.empty(shapes, dtype, self._settings.keeps_inverse_roots),
            {name: jnp.zeros((), jnp.int32) for name in COUNTERS},
        )

    def capture(
        self, batch: Mapping[str, Any], updates: jax.Array | int = 0
    ) -> Capture:
        """Returns what watches the passes over a batch.

        Args:
          batch: The batch.
          updates: How often the factors have been updated. Where only some positions
            are taken, these move on by one with each update.
        """
        stride = self._settings.position_stride
        structure = BatchStructure.from_batch(batch, stride, updates)
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
        nothing about curvature, nor does one that always cancels over positions
        (`log_vanished` says so after some updates).

        Args:
          state: The state so far.
          sums: Layer name to the captured sums.
          loss_terms: M, the number of terms that the loss averages over.
          gradient_scale: Turns captured gradients into those of the summed loss.
        """
        statistics = {}
        for name, layer_sums in sums.items():
            factor_a, factor_b = layer_sums.kronecker_factors(
                loss_terms, gradient_scale
            )
            statistics.update({f'{name}/a': factor_a, f'{name}/b': factor_b})
        factors, skipped = state.factors.update(statistics, self._settings.factor_decay)
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
                layer.name,
                'no call of it was seen (the forward pass does not reach it, or not by '
                '__call__, or by another path or as another kind of module than when '
                'the model was initialised)',
            )
            logging.warning(
                'K-FAC: no statistics for layer %s: %s. Its gradient is used as it is.',
                layer.name,
                reason,
            )

    def log_vanished(self, updates: int, averaged_weight: Mapping[str, float]) -> None:
        """Says once, after some updates, which factors have always vanished.

        Args:
          updates: How often factors were updated.
          averaged_weight: Factor name to the sum of the weights in its average.
        """
        if updates < TELLING_UPDATES or self._is_vanishing_logged:
            return
        self._is_vanishing_logged = True
        for name, weight in averaged_weight.items():
            layer_name, _, side = name.rpartition('/')
            if weight == 0 and layer_name not in self._unreached:
                log_vanished(side.upper(), layer_name)

    def update_inverses(self, state: KFACState) -> KFACState:
        """Inverts the factors of all layers.

        A factor that cannot be inverted keeps its last good inverse, and the failure
        is counted.
        """
        factors, failed = state.factors.renew_inverses(
            self._settings.damping, self._on_all_devices
        )
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
          gradients: Parameter name to gradient; layers may be left out as a whole.

        Returns:
          m_a m_b B**-1 G A**-1, m the factors' mean eigenvalues, for the layers, and
          the other gradients as they are.

        Raises:
          ValueError: If only some of a layer's gradients are there.
        """
        stacks = MatrixStacks.of(self._layers_of(gradients))
        found = self.precondition_matrices(state, stacks, stacks.gather(gradients))
        preconditioned = {
            name: part.astype(gradients[name].dtype)
            for name, part in stacks.split(found).items()
        }
        return {**gradients, **preconditioned}

    def precondition_matrices(
        self, state: KFACState, stacks: MatrixStacks, gradients: Stacks
    ) -> Stacks:
        """Does what `precondition` does, to gradients that are gathered in stacks.

        Args:
          state: The state; a side of a layer without an inverse is left out.
          stacks: Which layers the stacks hold.
          gradients: Their gradients.

        Returns:
          m_a m_b B**-1 G A**-1 for each layer.
        """
        factors, found = state.factors, {}
        for stack, layers in stacks.layers.items():
            inverses_a, inverses_b = map(factors.inverses_of, _names_of_factors(layers))
            found[stack] = by_member(
                _preconditioned,
                gradients[stack].astype(factors.dtype),
                inverses_a,
                inverses_b,
                on_all_devices=self._on_all_devices,
            ).astype(gradients[stack].dtype)
        return found

    def _layers_of(self, gradients: Mapping[str, jax.Array]) -> list[KFACLayer]:
        """Returns the layers that have gradients.

        Raises:
          ValueError: If only some of a layer's gradients are there.
        """
        found = []
        for layer in self.layers:
            names = layer.parameter_names
            missing = [name for name in names if name not in gradients]
            if missing == names:
                continue
            if missing:
                raise ValueError(
                    f'K-FAC got no gradient for {missing[0]}, but for the rest of '
                    f'layer {layer.name}. Freeze all of a layer, or give '
                    'KFACPreconditioner the shapes of those parameters alone that '
                    'are trained: it then leaves the layer to the first-order rule.'
                )
            found.append(layer)
        return found

    def spectral_directions(
        self, state: KFACState, momenta: Stacks, gradients: Stacks
    ) -> Stacks:
        """Returns directions of steepest descent under the spectral norm.

        Args:
          state: The state; a side of a layer without an inverse counts as the
            identity.
          momenta: Momenta of the gradients of all layers, gathered in `self.stacks`.
          gradients: The gradients themselves; a layer moves where one is not zero.

        Returns:
          Each layer's direction, see `submission.spectral`.
        """
        factors, found = state.factors, {}
        for stack, layers in self.stacks.layers.items():
            roots_a, roots_b = map(factors.inverse_roots_of, _names_of_factors(layers))
            found[stack] = directions(
                momenta[stack].astype(factors.dtype),
                gradients[stack],
                roots_a,
                roots_b,
                self._on_all_devices,
            ).astype(momenta[stack].dtype)
        return found

    def curvature_scales(
        self, state: KFACState, layers: Sequence[KFACLayer]
    ) -> jax.Array:
        """Returns the mean eigenvalues m_a m_b of the layers' curvature blocks, `[n]`.

        A preconditioned gradient divided by it is the direction of K-FAC at its
        natural scale. Zero if a side has no inverse yet.
        """
        scales_a, scales_b = map(
            state.factors.inverted_scales_of, _names_of_factors(layers)
        )
        return scales_a * scales_b

    def transformation(self) -> optax.GradientTransformationExtraArgs:
        """Returns the preconditioner as an optax transformation, for `optax.chain`.

        Its `update` takes, besides gradients, the keyword arguments `sums` (layer
        name to factor sums, None between statistics steps), `loss_terms`,
        `gradient_scale` and `renew_inverses`, which also works without `sums`.

        Raises:
          ValueError: If the first-order rule takes the place of the preconditioned
            gradient.
        """
        if self._settings.first_order_rule == 'spectral':
            raise ValueError(
                "first_order_rule 'spectral' takes the place of the preconditioned "
                'gradient, which this transformation returns; use '
                'submission.jax.first_order.FirstOrderOptimizer, or another rule.'
            )

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
            if renew_inverses is not False:
                state = jax.lax.cond(
                    renew_inverses, self.update_inverses, lambda same: same, state
                )
            preconditioned = self.precondition(state, flatten(updates))
            return unflatten(preconditioned, updates), state

        return optax.GradientTransformationExtraArgs(self.init, update)


def _names_of_factors(layers: Sequence[KFACLayer]) -> tuple[list[str], list[str]]:
    """Returns the names of the factors A, and of the factors B."""
    names_a, names_b = ([f'{layer.name}/{side}' for layer in layers] for side in 'ab')
    return names_a, names_b


def _preconditioned(
    matrix: jax.Array, inverse_a: jax.Array, inverse_b: jax.Array
) -> jax.Array:
    return inverse_b @ matrix @ inverse_a


def _counted(
    counters: Mapping[str, jax.Array], **increments: jax.Array | int
) -> dict[str, jax.Array]:
    return {name: count + increments.get(name, 0) for name, count in counters.items()}
