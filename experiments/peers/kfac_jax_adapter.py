"""Makes kfac-jax 0.0.8 take the models here, by its own ways of extending it.

As released it lacks two things, without which it runs neither model:

- It unpacks what `Primitive.get_bind_params` returned before JAX 0.9.2.
- Its registration finds the layers, but its blocks then take only kernels that are
  matrices and inputs whose first axis is the batch. Flax's attention has kernels of
  three axes, and the rows of a graph network's layers are nodes and edges. The blocks
  below bring those into the form of its block for repeated dense layers, which is
  K-FAC-expand; the arithmetic stays kfac-jax's.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import kfac_jax
from jax.extend import source_info_util

from experiments.peers.task import Task

_Constructor = Callable[[Any], Any]


def adapt_to_jax() -> None:
    """Lets kfac-jax evaluate equations under JAX 0.9.2 and newer."""
    if isinstance(jax.lax.add_p.get_bind_params({}), dict):
        kfac_jax.tag_graph_matcher.eval_jaxpr_eqn = _evaluate_equation


def _evaluate_equation(equation: Any, inputs: list[Any]) -> list[Any]:
    parameters = equation.primitive.get_bind_params(equation.params)
    with source_info_util.user_context(equation.source_info.traceback):
        outputs = equation.primitive.bind(*inputs, **parameters)
    return list(outputs) if equation.primitive.multiple_results else [outputs]


class RowsDense(kfac_jax.RepeatedDenseKroneckerFactored):
    """Dense layers of any kernel shape, on rows that need not be examples."""

    def __init__(self, equation: Any) -> None:
        """Lays the kernel and bias of a registered layer out as one matrix."""
        self._layer_tag_eq = equation
        kernel, bias = self.parameters_shapes
        letters = 'abcdef'[: len(kernel)]
        n_inputs = len(kernel) - len(bias)
        self._input_dim = math.prod(kernel[:n_inputs])
        inputs, outputs = letters[:n_inputs], letters[n_inputs:]
        super().__init__(
            equation,
            parameters_specs=[
                f'{letters} -> ({inputs})({outputs})',
                f'{outputs} -> 1({outputs})',
            ],
        )

    def update_curvature_matrix_estimate(
        self, state: Any, estimation_data: Any, *, batch_size: Any, **kwargs: Any
    ) -> Any:
        """Takes all rows for the repeats of one example, with the batch's scale."""
        (inputs,) = estimation_data.primals.inputs
        (gradients,) = estimation_data.tangents.outputs
        rows = inputs.reshape(1, -1, self._input_dim)
        gradient_rows = gradients.reshape(*rows.shape[:2], -1) / jnp.sqrt(batch_size)
        data = _layer_data(rows, gradient_rows)
        return super().update_curvature_matrix_estimate(
            state, data, batch_size=1, **kwargs
        )


class RowsScaleAndShift(kfac_jax.ScaleAndShiftDiagonal):
    """Scale and shift of rows that are not examples."""

    def update_curvature_matrix_estimate(
        self, state: Any, estimation_data: Any, *, batch_size: Any, **kwargs: Any
    ) -> Any:
        """Takes each row for an example, with the batch's scale."""
        primals = estimation_data.primals
        (inputs,), (gradients,) = primals.inputs, estimation_data.tangents.outputs
        rows = len(gradients)
        gradients = gradients * jnp.sqrt(rows / batch_size)
        data = _layer_data(inputs, gradients, primals.params)
        return super().update_curvature_matrix_estimate(
            state, data, batch_size=rows, **kwargs
        )


def _layer_data(
    inputs: jax.Array, gradients: jax.Array, params: tuple[jax.Array, ...] = ()
) -> Any:
    return kfac_jax.LayerVjpData(
        primals=kfac_jax.LayerData(inputs=(inputs,), outputs=(), params=params),
        tangents=kfac_jax.LayerData(inputs=(), outputs=(gradients,), params=()),
    )


def block_constructors(batch_size: int) -> dict[str, _Constructor]:
    """Returns kfac-jax's own block by kind of layer, or where it fails one of these.

    Args:
      batch_size: Examples in a batch.
    """

    def choose(own: _Constructor, other: _Constructor, equation: Any) -> Any:
        block = own(equation)
        has_matrices = all(len(shape) <= 2 for shape in block.parameters_shapes)
        has_examples = block.inputs_shapes[0][0] == batch_size
        return block if has_matrices and has_examples else other(equation)

    return {
        variant: functools.partial(choose, own, other)
        for variant, own, other in (
            ('dense', kfac_jax.DenseTwoKroneckerFactored, RowsDense),
            ('repeated_dense', kfac_jax.RepeatedDenseKroneckerFactored, RowsDense),
            ('scale_and_shift', kfac_jax.ScaleAndShiftDiagonal, RowsScaleAndShift),
        )
    }


def registered_loss(task: Task) -> Callable[[Any, Any], jax.Array]:
    """Returns the training loss, told to kfac-jax.

    kfac-jax takes no weight for each output. A logit without a label is replaced by
    a constant, so no gradient passes it, and the weight turns kfac-jax's mean over
    the batch into the mean over labels.
    """

    def loss(params: Any, batch: Any) -> jax.Array:
        outputs = task.outputs(params, batch)
        summed, terms = task.loss(outputs, batch)
        targets, weight = batch['targets'], len(outputs) / terms
        if task.has_many_labels:
            mask = batch['weights']
            outputs, targets = (jnp.where(mask, a, 0) for a in (outputs, targets))
            kfac_jax.register_sigmoid_cross_entropy_loss(
                outputs, targets, weight=weight
            )
        else:
            kfac_jax.register_softmax_cross_entropy_loss(
                outputs, targets, weight=weight
            )
        return summed / terms

    return loss
