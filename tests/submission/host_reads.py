"""Watches for what makes the host wait for the device.

On a CPU nothing waits, but the operations that would are known, and are called all
the same.
"""

import contextlib
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# Reading a number, and results whose shape depends on numbers.
_READS = {
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten.repeat_interleave,
    aten._unique2,
}


class _Watch(TorchDispatchMode):
    def __init__(self, reads):
        super().__init__()
        self._reads = reads

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in _READS or (
            func.overloadpacket is aten.index
            and any(i is not None and i.dtype == torch.bool for i in args[1])
        ):
            self._reads.append(str(func))
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def host_reads():
    """Yields a list that names what the code in the context reads."""
    reads = []
    with contextlib.ExitStack() as stack:
        # These read memory without calling an operation.
        for name in ('tolist', 'numpy', '__array__'):
            method = getattr(torch.Tensor, name)

            def reading(tensor, *args, method=method, name=name, **kwargs):
                reads.append(name)
                with torch.utils._python_dispatch._disable_current_modes():
                    return method(tensor, *args, **kwargs)

            stack.enter_context(mock.patch.object(torch.Tensor, name, reading))
        stack.enter_context(_Watch(reads))
        yield reads
