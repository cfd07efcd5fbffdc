"""Models as the harness wraps them."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the workload's own model under all wrappers."""
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        elif isinstance(compiled_from := getattr(model, '_orig_mod', None), nn.Module):
            model = compiled_from
        else:
            return model


def for_statistics(model: nn.Module) -> nn.Module:
    """Returns the model to run on statistics steps, when hooks are in place.

    Compiled code would have to be compiled anew to see hooks, and `DataParallel`
    runs copies that hold none of the modules that are watched; an outermost one is left
    out (compiled parts further inside run as written, see `Capture`).
    `DistributedDataParallel` stays, for it averages the gradients.
    """
    inner = getattr(model, '_orig_mod', model)
    return inner.module if isinstance(inner, DataParallel) else inner


class GivenModel:
    """Remembers the model as the harness gave it before the first step.

    Having restored a checkpoint, AlgoPerf hands over what `DistributedDataParallel`
    wraps in place of the wrapper. A backward pass of that would leave each process with
    its own gradients.
    """

    def __init__(self, model: nn.Module) -> None:
        """Remembers the model, with its wrappers."""
        self._model = model

    def wrapped(self, model: nn.Module) -> nn.Module:
        """Returns the model, in its wrapper if that has been taken off."""
        given = self._model
        if isinstance(given, DistributedDataParallel) and model is given.module:
            return given
        return model

    def state_dict(self) -> dict[str, Any]:
        """Returns nothing: what is remembered is given again."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes nothing."""
        del state
