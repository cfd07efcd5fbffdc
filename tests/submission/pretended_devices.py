"""Tensors that pretend to be on devices that this machine need not have."""

from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

HOST = torch.device('cpu')
_DEVICE = Tensor.device


def _where(tensor: Tensor) -> torch.device:
    found: torch.device = getattr(tensor, 'pretended', HOST)
    return found


def put(tensor: Tensor, device: torch.device) -> Tensor:
    """Makes a tensor pretend to be on a device."""
    tensor.pretended = device  # type: ignore[attr-defined]
    return tensor


class PretendedDevices(TorchFunctionMode):
    """Refuses operations on tensors of several devices, as PyTorch does.

    What is computed is computed on the host. A result is where the operands are. As in
    PyTorch a single number on the host goes with all.
    """

    def __enter__(self) -> Self:
        """Lets tensors pretend."""
        super().__enter__()
        return self

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Runs an operation and says where its result is."""
        kwargs = dict(kwargs or {})
        if getattr(func, '__self__', None) is _DEVICE:
            return _where(args[0])
        device = kwargs.pop('device', None)
        if func is Tensor.to:
            tensor, others = args[0], []
            for value in args[1:]:
                if isinstance(value, torch.device):
                    device = value
                elif isinstance(value, Tensor):
                    device = _where(value)
                    others.append(value.dtype)
                elif value is not None:
                    others.append(value)
            result = func(tensor, *(others or [tensor.dtype]), **kwargs)
            # Not the same object, which stays where it is.
            return put(result.view_as(result), device or _where(tensor))
        operands = [
            leaf
            for leaf in _pytree.tree_leaves((args, kwargs))
            if isinstance(leaf, Tensor)
        ]
        devices = {
            _where(leaf) for leaf in operands if leaf.dim() > 0 or _where(leaf) != HOST
        }
        if len(devices) > 1:
            raise RuntimeError(
                f'Expected all tensors to be on the same device in {func}, but found '
                f'{sorted(map(str, devices))}.'
            )
        result = func(*args, **kwargs)
        for leaf in _pytree.tree_leaves(result):
            if isinstance(leaf, Tensor):
                put(leaf, device or next(iter(devices), HOST))
        return result
