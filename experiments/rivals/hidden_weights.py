"""The parameters that Muon trains."""

from torch import Tensor, nn


def hidden_weights_and_rest(
    model: nn.Module,
) -> tuple[list[Tensor], list[Tensor]]:
    """Returns the weights of hidden layers, and all other parameters.

    The others, by Muon's own rule, are vectors, embeddings and the output layer, here
    the last linear layer of the model. Its author would leave the first layer to AdamW
    too; that of the vision transformer is a convolution and so is left, but the two
    linear layers that embed the graph network's nodes and edges count as hidden here.
    With seed 0 they make no difference to the best of Muon's points.
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hidden = [layer.weight for layer in linear[:-1]]
    ids = {id(weight) for weight in hidden}
    rest: list[Tensor] = [
        p for p in model.parameters() if p.requires_grad and id(p) not in ids
    ]
    return hidden, rest
