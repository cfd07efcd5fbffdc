"""What the methods in PyTorch share."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from experiments.peers.method import Method
from experiments.peers.task import Task


class PyTorchMethod(Method):
    """A model, and optimisers that take a step from its gradients.

    Attributes:
      model: The model.
      optimizers: The optimisers.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.model: nn.Module = task.params()
        self.model.train()
        self.optimizers: list[torch.optim.Optimizer] = []

    @property
    def params(self) -> nn.Module:
        """The model."""
        return self.model

    def step(self, batch: Any) -> None:
        """Takes the gradient of the loss and gives it to the optimisers."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.backward(batch)
        for optimizer in self.optimizers:
            optimizer.step()

    def backward(self, batch: Any) -> None:
        """Adds the gradient that the optimisers follow to the parameters' `.grad`."""
        self.task.mean_loss(self.model, batch).backward()

    def state_bytes(self) -> int:
        """Returns the size of the optimisers' states."""
        return tensor_bytes([optimizer.state for optimizer in self.optimizers])


def tensor_bytes(root: Any) -> int:
    """Adds up the tensors that can be reached from an object.

    Parameters and modules are left out with all that belongs to them; a tensor that
    is reached twice counts once.

    Args:
      root: A tensor, a container, or an object with attributes.
    """
    storages: dict[int, int] = {}
    seen: dict[int, Any] = {}
    pending = [root]
    while pending:
        value = pending.pop()
        if id(value) in seen or isinstance(value, nn.Parameter | nn.Module):
            continue
        # Kept, so that no other object comes to have its id.
        seen[id(value)] = value
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        else:
            pending.extend(_parts(value))
    return sum(storages.values())


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, list | tuple):
        return value
    return vars(value).values() if hasattr(value, '__dict__') else ()
