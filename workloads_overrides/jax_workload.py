"""What the offline workloads share in JAX."""

import abc
import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from workloads_overrides import spec
from workloads_overrides.jax_sharding import batch_sharding, replicated_sharding

Params = Any

_ATTENTION_KERNELS = {
    'query': spec.ParameterType.ATTENTION_Q,
    'key': spec.ParameterType.ATTENTION_K,
    'value': spec.ParameterType.ATTENTION_V,
    'out': spec.ParameterType.ATTENTION_OUT,
}


def parameter_type(path: tuple[str, ...]) -> spec.ParameterType:
    """Returns the kind of a Flax parameter.

    Args:
        path: Names of the modules around the parameter and, last, its own.
    """
    *modules, name = path
    layer, parent = modules[-1], modules[-2] if len(modules) > 1 else ''
    is_bias = name == 'bias'
    if 'layernorm' in layer.lower():
        if is_bias:
            return spec.ParameterType.LAYER_NORM_BIAS
        return spec.ParameterType.LAYER_NORM_SCALE
    if parent.startswith('MultiHeadDotProductAttention'):
        return (
            spec.ParameterType.ATTENTION_BIAS if is_bias else _ATTENTION_KERNELS[layer]
        )
    if is_bias:
        return spec.ParameterType.BIAS
    if layer.startswith('conv'):
        return spec.ParameterType.CONV_WEIGHT
    return spec.ParameterType.WEIGHT


class JaxWorkload(spec.Workload):
    """A workload whose Flax model takes `inputs`, and has no state but parameters."""

    default_dropout_rate: float

    def __init__(self) -> None:
        super().__init__()
        self._model: nn.Module | None = None

    @functools.cached_property
    def _jitted_evaluate_batch(self) -> Callable[[Params, spec.Batch], Any]:
        # Made late, since it looks for devices, before which threads can be set.
        return jax.jit(
            self._evaluate_batch,
            in_shardings=(replicated_sharding(), batch_sharding()),
            out_shardings=replicated_sharding(),
        )

    def _initialised(
        self, params_rng: jax.Array, model: nn.Module, inputs: Any
    ) -> tuple[Params, None]:
        """Initialises a model; the same key gives the same parameters.

        Args:
            params_rng: Key of the parameters.
            model: Called with `inputs` and `train`.
            inputs: Inputs of the right shapes, whatever their values.

        Returns:
            The parameters, nested dictionaries with a copy on each device, and None.
        """
        self._model = model
        init = jax.jit(functools.partial(model.init, train=False))
        params = init({'params': params_rng}, inputs)['params']
        self._param_shapes = jax.tree.map(lambda x: spec.ShapeTuple(x.shape), params)
        self._param_types = jax.tree_util.tree_map_with_path(
            lambda path, _: parameter_type(tuple(entry.key for entry in path)), params
        )
        return jax.device_put(params, replicated_sharding()), None

    def model_fn(
        self,
        params: Params,
        augmented_and_preprocessed_input_batch: spec.Batch,
        model_state: Any,
        mode: spec.ForwardPassMode,
        rng: spec.RandomState,
        update_batch_norm: bool,
        dropout_rate: float | None = None,
    ) -> tuple[jax.Array, None]:
        """Returns logits and no state.

        Args:
            params: The model's parameters.
            augmented_and_preprocessed_input_batch: Its `inputs` go to the model.
            model_state: None.
            mode: Whether dropout is on.
            rng: Key of the dropout; None will do where there is none.
            update_batch_norm: Not used: there is no batch norm.
            dropout_rate: None for the workload's own; may be traced.

        Raises:
            ValueError: If there is a model state, or no model yet.
        """
        del update_batch_norm
        if model_state is not None:
            raise ValueError(f'model_state: expected None, got {model_state!r}.')
        if self._model is None:
            raise ValueError('model_fn: call init_model_fn() first.')
        if dropout_rate is None:
            dropout_rate = self.default_dropout_rate
        logits = self._model.apply(
            {'params': params},
            augmented_and_preprocessed_input_batch['inputs'],
            # By name, since under AlgoPerf the mode is a member of AlgoPerf's enum.
            train=mode.name == spec.ForwardPassMode.TRAIN.name,
            dropout_rate=dropout_rate,
            rngs={} if rng is None else {'dropout': rng},
        )
        assert isinstance(logits, jax.Array)
        return logits, None

    @abc.abstractmethod
    def _evaluate_batch(self, params: Params, batch: spec.Batch) -> Any:
        """Returns arrays of what the metrics need of a batch; it is compiled."""

    def _evaluation_logits(self, params: Params, batch: spec.Batch) -> jax.Array:
        logits, _ = self.model_fn(
            params,
            batch,
            None,
            spec.ForwardPassMode.EVAL,
            rng=None,
            update_batch_norm=False,
        )
        return logits
