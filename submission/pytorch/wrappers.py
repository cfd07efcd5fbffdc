"""Models as the harness wraps them."""

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
