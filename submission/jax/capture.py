"""Captures layer inputs and output gradients during one forward and backward pass.

The model is not touched: while it is traced, the calls of its Flax modules are
intercepted, and each layer's output passes through a probe. A probe does nothing in
the forward pass. In the backward pass it sees the layer's input together with the
gradient of its output, and what K-FAC needs of them leaves as the "gradient" of
accumulators that were passed in. Gradients of one variable add up over its uses, so
the applications of a layer that is used several times do so by themselves, also
under `nn.remat` and in a scan, and nothing is held longer than autodiff holds it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from .approximations import Accumulators, FactorSums, Sums
from .layers import Application, KFACLayer
from .weight_sharing import AmbiguousRowsError, BatchStructure

# Modules that call the layer they hold with a kernel computed from its parameter.
_KERNEL_NORMALISERS = (nn.WeightNorm, nn.SpectralNorm)

Forward = Callable[[Any], tuple[Any, Any]]
Backward = Callable[[Any], tuple[Any, dict[str, FactorSums]]]


@dataclasses.dataclass(frozen=True, eq=False)
class _Probe:
    """What the probes of one layer do in the backward pass."""

    layer: KFACLayer
    sums: Sums
    may_sum: bool

    def application(
        self,
        inputs: jax.Array,
        gradients: jax.Array,
        structure: BatchStructure,
        like: Accumulators,
    ) -> Accumulators:
        """Returns what one application of the layer adds to the accumulators."""
        dtype = like['inputs'].dtype
        rows, multiplicity = self.layer.input_rows(inputs.astype(dtype), self.may_sum)
        gradient_rows = self.layer.gradient_rows(gradients.astype(dtype))
        added = self.sums.application(
            self.layer,
            structure.to_weight_sharing_format(rows, multiplicity),
            structure.to_weight_sharing_format(gradient_rows),
        )
        # A layer with fewer examples than the batch (a learnt query) fills the
        # first of them; the others have no positions and do not count.
        return {
            key: value
            if value.shape == like[key].shape
            else like[key].at[: len(value)].set(value)
            for key, value in added.items()
        }


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _probed(
    probe: _Probe,
    output: jax.Array,
    inputs: jax.Array,
    structure: BatchStructure,
    accumulators: Accumulators,
) -> jax.Array:
    del probe, inputs, structure, accumulators
    return output


def _probed_forward(
    probe: _Probe,
    output: jax.Array,
    inputs: jax.Array,
    structure: BatchStructure,
    accumulators: Accumulators,
) -> tuple[jax.Array, Any]:
    del probe
    return output, (inputs, structure, accumulators)


def _probed_backward(probe: _Probe, residuals: Any, gradients: jax.Array) -> Any:
    inputs, structure, accumulators = residuals
    added = probe.application(inputs, gradients, structure, accumulators)
    return gradients, None, None, added


_probed.defvjp(_probed_forward, _probed_backward)


class Capture:
    """Collects the factor sums of layers over forward and backward passes."""

    def __init__(
        self, layers: Sequence[KFACLayer], structure: BatchStructure, sums: Sums
    ) -> None:
        """Prepares the capture.

        Args:
          layers: The layers to watch.
          structure: How the batch is spread over examples.
          sums: What to collect of each layer.
        """
        self._layers = {layer.name: layer for layer in layers}
        self._structure = structure
        self._sums = sums
        # Among padded positions the real ones have to be picked before any sum.
        self._may_sum = sums.sums_positions and not structure.sequences
        self._n_examples: dict[str, int] = {}
        self.errors: dict[str, str] = {}

    def vjp(self, forward: Forward, params: Any) -> tuple[Any, Backward, Any]:
        """Runs a forward pass that is watched.

        Args:
          forward: Maps parameters to `(outputs, auxiliary)`, calling Flax modules.
          params: The parameters.

        Returns:
          The outputs; a function from a gradient of the outputs to the gradient of
          the parameters and the factor sums by layer name, those of layers that were
          not reached left out; and the auxiliary values. What is not used of a call
          of the function is not computed by a compiled step.
        """
        dtype = jnp.result_type(*jax.tree.leaves(params))
        n = self._structure.n_examples
        empty = {
            name: self._sums.accumulators(layer, n, dtype)
            for name, layer in self._layers.items()
        }

        def watched(params: Any, accumulators: Any) -> tuple[Any, Any]:
            intercept = functools.partial(self._intercept, accumulators)
            with nn.intercept_methods(intercept):
                return forward(params)

        outputs, pull_back, auxiliary = jax.vjp(watched, params, empty, has_aux=True)
        reached = [
            name
            for name in self._layers
            if name in self._n_examples and name not in self.errors
        ]

        def backward(output_gradient: Any) -> tuple[Any, dict[str, FactorSums]]:
            gradients, accumulated = pull_back(output_gradient)
            return gradients, {
                name: self._sums.factor_sums(self._layers[name], accumulated[name])
                for name in reached
            }

        return outputs, backward, auxiliary

    def _intercept(
        self,
        accumulators: Mapping[str, Accumulators],
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        output = call(*args, **kwargs)
        if context.method_name != '__call__':
            return output
        layer = self._layers.get('/'.join(context.module.path))
        if layer is None:
            return output
        inputs = _first_input(args, kwargs)
        probe = _Probe(layer, self._sums, self._may_sum)
        if not self._is_told_apart(probe, inputs):
            return output
        return _probed(probe, output, inputs, self._structure, accumulators[layer.name])

    def _is_told_apart(self, probe: _Probe, inputs: jax.Array) -> bool:
        """Whether the rows of an application can be assigned to examples."""
        name = probe.layer.name

        def shared_inputs(inputs: jax.Array) -> jax.Array:
            rows, multiplicity = probe.layer.input_rows(inputs, probe.may_sum)
            shared = self._structure.to_weight_sharing_format(rows, multiplicity)
            return shared.positions()

        try:
            n_examples = jax.eval_shape(shared_inputs, inputs).shape[0]
            if probe.sums.sums_positions:
                if n_examples > self._structure.n_examples:
                    raise AmbiguousRowsError(
                        f'A layer was applied to {n_examples} examples in a batch of '
                        f'{self._structure.n_examples}.'
                    )
                before = self._n_examples.get(name, n_examples)
                if before != n_examples:
                    raise AmbiguousRowsError(
                        f'A layer was applied to {before} examples and then, in the '
                        f'same forward pass, to {n_examples}.'
                    )
        except AmbiguousRowsError as error:
            self.errors[name] = str(error)
            return False
        self._n_examples[name] = n_examples
        return True


def find_applications(run: Callable[[], Any]) -> dict[str, Application]:
    """Finds the Flax modules that a function calls, without computing anything.

    Args:
      run: Calls the model, for instance to initialise it.

    Returns:
      Path of each module, parts joined by '/', to how it was met first.
    """
    applications: dict[str, Application] = {}
    under_way: list[nn.Module] = []

    def intercept(
        call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        module = context.module
        under_way.append(module)
        try:
            output = call(*args, **kwargs)
        finally:
            under_way.pop()
        name = '/'.join(module.path)
        # A wrapper calls methods of other names; the module's own call matters.
        if context.method_name == '__call__' and name not in applications:
            kernel, unbound = None, None
            if module.has_variable('params', 'kernel'):
                kernel = tuple(jnp.shape(module.get_variable('params', 'kernel')))
                # One that is bound to its variables would keep the whole trace alive.
                unbound = module.clone(parent=None)
            inputs = _first_input(args, kwargs)
            # JAX has no public name for the class of mapped values.
            is_mapped = type(inputs).__name__ == 'BatchTracer'
            normalisers = [m for m in under_way if isinstance(m, _KERNEL_NORMALISERS)]
            applications[name] = Application(
                type(module),
                unbound,
                kernel,
                is_mapped,
                type(normalisers[-1]).__name__ if normalisers else None,
            )
        return output

    def traced() -> None:
        with nn.intercept_methods(intercept):
            run()

    jax.eval_shape(traced)
    if not applications:
        # The model was compiled before: JAX remembers what it does and does not call
        # it again.
        with jax.disable_jit():
            jax.eval_shape(traced)
    return applications


def _first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return args[0] if args else next(iter(kwargs.values()), None)
