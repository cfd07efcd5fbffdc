"""Pieces of work, and the devices that do them.

An operation takes as long as its arithmetic or its memory traffic, whichever is longer,
plus what it sends and a fixed time for each kernel. Nothing overlaps.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

FLOAT_BYTES = 4

# What limits the arithmetic of an operation: products of many rows with a matrix, of
# many rows with themselves, of matrices, and of many pairs of small matrices; Cholesky
# inverses; functions of entries; entries that are copied in another order.
Kind = Literal['rows', 'gram', 'square', 'batch', 'inverse', 'pointwise', 'copy']


@dataclasses.dataclass(frozen=True)
class Device:
    """A device, and the network between several of them.

    Attributes:
      name: What it is.
      flops: Achievable operations a second by kind of operation.
      bandwidth: Bytes a second from and to memory.
      network: Bytes a second that a device sends while it receives as many.
      kernel_seconds: What every kernel takes, however small its work.
      column_seconds: What each column of a factorisation waits for the one before.
      list_seconds: What a kernel for a list takes for each tensor after the first.
    """

    name: str
    flops: Mapping[Kind, float]
    bandwidth: float
    network: float
    kernel_seconds: float
    column_seconds: float
    list_seconds: float

    def seconds(self, part: Sequence['Operation']) -> float:
        """Returns the time of a part, its operations one after another."""
        return sum(
            max(operation.flops / self.flops[operation.kind], self._traffic(operation))
            + operation.sent / self.network
            + operation.kernels * self._kernel_seconds(operation)
            + operation.columns * self.column_seconds
            for operation in part
        )

    def _kernel_seconds(self, operation: 'Operation') -> float:
        return self.kernel_seconds + (operation.tensors - 1) * self.list_seconds

    def _traffic(self, operation: 'Operation') -> float:
        return operation.bytes / self.bandwidth


# NVIDIA A100 40 GB SXM, from its data sheet (2021): 19.5 TFLOP/s in float32, 1,555 GB/s
# of memory bandwidth, NVLink with 600 GB/s in both directions together. The shares of
# the peak that are reached are assumptions: 70% by large products, 10% by
# Cholesky inverses besides 1 microsecond a column, one exponential for 16 operations,
# 80% of memory bandwidth (in any order), 70% of the network's, and 5 microseconds for a
# kernel.
A100 = Device(
    'A100 40GB',
    flops={
        'rows': 0.7 * 19.5e12,
        'gram': 0.7 * 19.5e12,
        'square': 0.5 * 19.5e12,
        'batch': 0.7 * 19.5e12,
        'inverse': 0.1 * 19.5e12,
        'pointwise': 19.5e12 / 16,
        'copy': 0.8 * 1555e9 / (2 * FLOAT_BYTES),
    },
    bandwidth=0.8 * 1555e9,
    network=0.7 * 300e9,
    kernel_seconds=5e-6,
    column_seconds=1e-6,
    list_seconds=0.0,
)


@dataclasses.dataclass(frozen=True)
class Operation:
    """A piece of work.

    Attributes:
      kind: What limits its arithmetic.
      flops: Floating-point operations; for `pointwise`, exponentials; for `copy`,
        entries.
      bytes: Read from and written to memory.
      sent: Bytes that each device sends.
      kernels: Number of kernels it takes; a fraction of one that others use too.
      tensors: Number of tensors in the list that it works on.
      columns: Of a factorisation, which come one after another.
    """

    kind: Kind
    flops: float
    bytes: float
    sent: float = 0.0
    kernels: float = 1
    tensors: int = 1
    columns: int = 0

    def times(self, count: int) -> 'Operation':
        """Returns that many of it, one after another."""
        return dataclasses.replace(
            self.on_examples(count),
            kernels=self.kernels * count,
            columns=self.columns * count,
        )

    def on_examples(self, examples: float) -> 'Operation':
        """Returns it for that many examples at once, in as many kernels."""
        return dataclasses.replace(
            self,
            flops=self.flops * examples,
            bytes=self.bytes * examples,
            sent=self.sent * examples,
        )


Part = tuple[Operation, ...]


def pointwise(
    entries: float, passes: float, exponentials: float = 0.0, kernels: int = 1
) -> Operation:
    """Returns work on each of some entries, with so many reads and writes of them."""
    return Operation(
        'pointwise',
        exponentials * entries,
        passes * FLOAT_BYTES * entries,
        kernels=kernels,
    )


def copies(entries: float, kernels: int = 1) -> Operation:
    """Returns copies of so many entries in all, in another order."""
    return Operation('copy', entries, 2 * FLOAT_BYTES * entries, kernels=kernels)
