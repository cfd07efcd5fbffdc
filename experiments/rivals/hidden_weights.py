"""The parameters that Muon trains."""

from collections.abc import Callable

from torch import Tensor, nn


def hidden_weights_and_rest(
    model: nn.Module, is_output: Callable[[str], bool]
) -> tuple[list[Tensor], list[Tensor]]:
    """Returns the weights of hidden layers, and all other parameters.

    The others, by Muon's own rule, are vectors, embeddings and the output layer. Its
    author would leave the first layer to AdamW too; that of the vision transformer is a
    convolution and so is left, but the two linear layers that embed the graph network's
    nodes and edges count as hidden here.

    Args:
      model: The model.
      is_output: Whether a parameter of some name belongs to the output layer.
    """
    names = {
        f'{name}.weight'
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    trained: dict[str, Tensor] = {
        name: p for name, p in model.named_parameters() if p.requires_grad
    }
    hidden = [p for n, p in trained.items() if n in names and not is_output(n)]
    ids = {id(weight) for weight in hidden}
    return hidden, [p for p in trained.values() if id(p) not in ids]
