"""The parameters that Muon trains."""

from torch import Tensor, nn


def hidden_weights_and_rest(
    model: nn.Module,
) -> tuple[list[Tensor], list[Tensor]]:
    """Returns the weights of hidden layers, and all other parameters.

    The others, by Muon's own rule, are vectors, embeddings and the output layer, here
    the last linear layer of the model.
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hidden = [layer.weight for layer in linear[:-1]]
    ids = {id(weight) for weight in hidden}
    rest: list[Tensor] = [
        p for p in model.parameters() if p.requires_grad and id(p) not in ids
    ]
    return hidden, rest
