"""Exact blocks of the generalised Gauss-Newton matrix, by plain autograd.

The yardstick for every approximation: nothing here knows of Kronecker factors.
Cost and memory grow with outputs times parameters, so use it for small networks,
and with float64 throughout.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def loss_hessian(loss: Callable[[Tensor], Tensor], outputs: Tensor) -> Tensor:
    """Returns the Hessian of a loss with respect to all outputs together.

    Args:
      loss: Maps outputs, in their own shape, to a scalar.
      outputs: Where to take the Hessian.

    Returns:
      Has shape `[outputs.numel(), outputs.numel()]`.
    """

    def loss_of(flat: Tensor) -> Tensor:
        return loss(flat.view(outputs.shape))

    hessian: Tensor = torch.func.jacrev(torch.func.grad(loss_of))(
        outputs.detach().flatten()
    )
    return hessian


def layer_jacobian(
    model: nn.Module,
    args: tuple[object, ...],
    weight_name: str,
    bias_name: str | None = None,
    groups: int = 1,
    inputs_first: bool = False,
) -> Tensor:
    """Returns the Jacobian of a network's outputs with respect to one layer.

    Args:
      model: The network.
      args: What it is called with.
      weight_name: Name of the layer's weight.
      bias_name: Name of its bias; appended to the weight as a last column.
      groups: Number of blocks that the layer's outputs fall into.
      inputs_first: Whether the first axis of the weight is the inputs of all groups
        and the second the outputs of one, as in transposed convolutions; otherwise
        the first is the outputs of all groups.

    Returns:
      Has shape `[outputs, groups, d_in * d_out]`; the weight matrix is stacked
      column by column, as in vec(W), for which the GGN block is A kron B.
    """
    names = [weight_name] if bias_name is None else [weight_name, bias_name]
    parameters = {name: model.get_parameter(name).detach() for name in names}

    def outputs_of(parameters: dict[str, Tensor]) -> Tensor:
        outputs: Tensor = torch.func.functional_call(model, parameters, args)
        return outputs.flatten()

    jacobians = torch.func.jacrev(outputs_of)(parameters)
    weight = jacobians[weight_name]
    if inputs_first:
        weight = weight.unflatten(1, (groups, -1)).transpose(2, 3).flatten(1, 2)
    d_out = weight.shape[1] // groups
    columns = [weight.reshape(len(weight), groups, d_out, -1)]
    if bias_name is not None:
        columns.append(jacobians[bias_name].reshape(len(weight), groups, d_out, 1))
    return torch.cat(columns, -1).detach().transpose(-1, -2).flatten(2)


def layer_ggn(
    model: nn.Module,
    args: tuple[object, ...],
    loss: Callable[[Tensor], Tensor],
    loss_terms: float,
    weight_name: str,
    bias_name: str | None = None,
    groups: int = 1,
    inputs_first: bool = False,
) -> Tensor:
    """Returns the GGN of the mean loss for the weights of one layer.

    Args:
      model: The network.
      args: What it is called with.
      loss: The summed loss as a function of the network's outputs.
      loss_terms: M, the number of terms that the mean loss averages over.
      weight_name: As for `layer_jacobian`.
      bias_name: As for `layer_jacobian`.
      groups: As for `layer_jacobian`.
      inputs_first: As for `layer_jacobian`.

    Returns:
      The block of each group on its own, `[groups, d_in * d_out, d_in * d_out]`.
    """
    jacobian = layer_jacobian(model, args, weight_name, bias_name, groups, inputs_first)
    with torch.no_grad():
        outputs = model(*args)
    hessian = loss_hessian(loss, outputs)
    by_group = jacobian.transpose(0, 1)
    return by_group.transpose(1, 2) @ hessian @ by_group / loss_terms


def relative_error(approximation: Tensor, exact: Tensor) -> float:
    """Returns the Frobenius norm of the difference over that of the exact matrix."""
    return float(
        torch.linalg.vector_norm(approximation - exact)
        / torch.linalg.vector_norm(exact)
    )
