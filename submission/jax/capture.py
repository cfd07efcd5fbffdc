"""Captures layer inputs and output gradients during one forward and backward pass.

The model is not touched: while it is traced, the calls of its Flax modules are
intercepted, and each layer's output passes through a probe. A probe does nothing in
the forward pass. In the backward pass it sees the layer's input together with the
gradient of its output, and what K-FAC needs of them leaves as the "gradient" of
accumulators that were passed in. Gradients of one variable add up over its uses, so
the applications of a layer that is used several times do so by themselves, also
under `nn.remat` and in a scan, and nothing is held longer than autodiff holds it.
"""

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ..rows import AmbiguousRowsError
from .approximations import Accumulators, FactorSums, Sums
from .kfac_layer import KFACLayer
from .layers import UNDER_VMAP, Application, layer_class
from .naming import flatten
from .tracing import is_mapped, is_traced_apart, traced_anew
from .weight_sharing import BatchStructure, sums_dtype

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
        dtype, by_example = like['inputs'].dtype, self.sums.sums_positions
        rows, multiplicity = self.layer.input_rows(inputs.astype(dtype), self.may_sum)
        gradient_rows = self.layer.gradient_rows(gradients.astype(dtype))
        added = self.sums.application(
            self.layer,
            structure.to_weight_sharing_format(rows, multiplicity, by_example),
            structure.to_weight_sharing_format(gradient_rows, by_example=by_example),
            gradients.dtype,
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
        self._may_sum = sums.sums_positions and not structure.pads_positions
        self._n_examples: dict[str, int] = {}
        self._n_applications: collections.Counter[str] = collections.Counter()
        # Whether the inputs of the modules that are being called are mapped.
        self._under_vmap: list[bool] = []
        self.errors: dict[str, str] = {}

    def vjp(self, forward: Forward, params: Any) -> tuple[Any, Backward, Any]:
        """Runs a forward pass that is watched, to be part of a compiled step.

        Run by itself, each of its operations is compiled anew.

        Args:
          forward: Maps parameters to `(outputs, auxiliary)`, calling a Flax model on
            the whole batch at once. Other models that have modules of the same paths
            (a teacher, averaged parameters) have to be called outside of it.
          params: The parameters.

        Returns:
          The outputs; a function from a gradient of the outputs to the gradient of
          the parameters and the factor sums by layer name, those of layers that were
          not reached left out; and the auxiliary values. What is not used of a call
          of the function is not computed by a compiled step.

        Raises:
          ValueError: If a layer is called with a kernel of another shape than its own.
        """
        dtype = sums_dtype(jnp.result_type(*jax.tree.leaves(params)))
        n = self._structure.n_examples
        empty = {
            name: self._sums.accumulators(layer, n, dtype)
            for name, layer in self._layers.items()
        }

        as_written: Callable[[], Any] = contextlib.nullcontext
        if any(layer.seen_only_as_written for layer in self._layers.values()):
            as_written = jax.disable_jit

        def watched(params: Any, accumulators: Any) -> tuple[Any, Any]:
            intercept = functools.partial(self._intercept, accumulators)
            with nn.intercept_methods(intercept), traced_anew(), as_written():
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
        inputs = _first_input(args, kwargs)
        self._under_vmap.append(is_mapped(inputs))
        try:
            output = call(*args, **kwargs)
            under_vmap = any(self._under_vmap)
        finally:
            self._under_vmap.pop()
        layer = self._layers.get('/'.join(context.module.path))
        if layer is None or not _is_call_of(layer, context):
            return output
        probe = _Probe(layer, self._sums, self._may_sum)
        try:
            if under_vmap:
                raise AmbiguousRowsError(
                    f'it {UNDER_VMAP}; call the model on the whole batch'
                )
            self._tell_apart(probe, inputs, is_traced_apart(output))
        except AmbiguousRowsError as error:
            self.errors[layer.name] = str(error)
            return output
        return _probed(probe, output, inputs, self._structure, accumulators[layer.name])

    def _tell_apart(
        self, probe: _Probe, inputs: jax.Array, may_be_repeated: bool
    ) -> None:
        """Makes sure that the rows of an application can be assigned to examples.

        Args:
          probe: The layer's probe.
          inputs: The layer's input.
          may_be_repeated: Whether it may be called in a loop that is traced once.

        Raises:
          AmbiguousRowsError: If they cannot.
        """

        def shared_inputs(inputs: jax.Array) -> jax.Array:
            rows, multiplicity = probe.layer.input_rows(inputs, probe.may_sum)
            shared = self._structure.to_weight_sharing_format(
                rows, multiplicity, probe.sums.sums_positions
            )
            return shared.positions()

        name, batch_size = probe.layer.name, self._structure.n_examples
        n_examples = jax.eval_shape(shared_inputs, inputs).shape[0]
        self._n_applications[name] += 1
        if probe.sums.sums_positions:
            if n_examples > batch_size:
                raise AmbiguousRowsError(
                    f'A layer was applied to {n_examples} examples in a batch of '
                    f'{batch_size}.'
                )
            before = self._n_examples.get(name, n_examples)
            if before != n_examples:
                raise AmbiguousRowsError(
                    f'A layer was applied to {before} examples and then, in the '
                    f'same forward pass, to {n_examples}.'
                )
            self._check_for_parts(name, n_examples, may_be_repeated)
        self._n_examples[name] = n_examples

    def _check_for_parts(
        self, name: str, n_examples: int, may_be_repeated: bool
    ) -> None:
        """Makes sure that a layer is not applied to one part of the batch at a time.

        Which examples a part holds is not known. A learnt query has a number of
        examples of its own too, but for that is applied once, or to one example.
        """
        batch_size, n_applications = self._structure.n_examples, self._n_applications
        if n_examples == batch_size:
            return
        if n_examples == 1:
            in_parts = n_applications[name] == batch_size
        else:
            divides = batch_size % n_examples == 0
            in_parts = n_applications[name] > 1 or (may_be_repeated and divides)
        if in_parts:
            raise AmbiguousRowsError(
                f'A layer was applied to {n_examples} of the {batch_size} examples at '
                'a time; call the model on the whole batch.'
            )


def _is_call_of(layer: KFACLayer, context: nn.module.InterceptorContext) -> bool:
    """Returns whether a call under a layer's path is the layer's own.

    Under `nn.share_scope` a module has the path of the layer that it holds.

    Raises:
      ValueError: If it is the call of another layer of the same path.
    """
    module = context.module
    is_own = layer_class(type(module)) is type(layer)
    if context.method_name != '__call__' or not is_own:
        return False
    kernel_shape = _kernel_shape(module)
    if kernel_shape != layer.kernel_shape:
        raise ValueError(
            f'Layer {layer.name} has a kernel of shape {layer.kernel_shape}, and the '
            f'forward pass calls one of this path with {kernel_shape}. K-FAC watches '
            'one model: call others outside of the forward pass that it watches.'
        )
    return True


def find_applications(run: Callable[[], Any]) -> dict[str, Application]:
    """Finds the Flax modules that a function calls, without computing anything.

    Args:
      run: Calls the model, for instance to initialise it.

    Returns:
      Path of each module, parts joined by '/', to how it was met first.
    """
    applications, expected = _met_in(run)
    if applications and expected <= applications.keys():
        return applications
    # Some have parameters and were not called: JAX may have taken what it traced for
    # one module for that of another.
    with jax.disable_jit():
        as_written, _ = _met_in(run)
    for name, application in as_written.items():
        if name not in applications:
            applications[name] = dataclasses.replace(
                application, seen_only_as_written=True
            )
    return applications


def _met_in(run: Callable[[], Any]) -> tuple[dict[str, Application], set[str]]:
    """Returns the modules that a function calls, and the paths of all kernels."""
    applications: dict[str, Application] = {}
    with_kernel: set[str] = set()
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
        if context.method_name == '__call__' and _says_more(
            type(module), applications.get(name)
        ):
            normalisers = [m for m in under_way if isinstance(m, _KERNEL_NORMALISERS)]
            kernel_shape = _kernel_shape(module)
            applications[name] = Application(
                type(module),
                # One that is bound to its variables would keep the whole trace alive.
                None if kernel_shape is None else module.clone(parent=None),
                kernel_shape,
                is_mapped(_first_input(args, kwargs)),
                type(normalisers[-1]).__name__ if normalisers else None,
            )
        if not under_way and module.scope is not None:
            names = flatten(module.variables.get('params', {}))
            parts = [name.rpartition('/') for name in names]
            with_kernel.update(path for path, _, leaf in parts if leaf == 'kernel')
        return output

    def traced() -> None:
        with nn.intercept_methods(intercept), traced_anew():
            run()

    jax.eval_shape(traced)
    return applications, with_kernel


def _says_more(kind: type[nn.Module], known: Application | None) -> bool:
    """Returns whether a module is to be taken for its path, not one met before.

    Several have the same path under `nn.share_scope`; a layer is what matters.
    """
    if known is None:
        return True
    return layer_class(known.kind) is None and layer_class(kind) is not None


def _kernel_shape(module: nn.Module) -> tuple[int, ...] | None:
    """Returns the shape of a module's parameter `kernel`, None if it has none."""
    if not module.has_variable('params', 'kernel'):
        return None
    kernel = nn.meta.unbox(module.get_variable('params', 'kernel'))
    return tuple(jnp.shape(kernel))


def _first_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return args[0] if args else next(iter(kwargs.values()), None)
