"""Exchanges between the processes of a distributed run; no-ops in a single one.

What is exchanged has a name, which the traffic is counted under and which an error
mentions.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor


class CommunicationError(RuntimeError):
    """An exchange with the other processes failed."""


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What this process gave to others, by the name of what was exchanged.

    Attributes:
      calls: Number of collective operations.
      bytes_sent: Bytes of the buffers that this process contributed: the whole
        buffer where all are added up, nothing where it only receives. How often the
        backend passes a buffer on is its own affair.
    """

    calls: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )
    bytes_sent: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )

    def record(self, what: str, n_bytes: int) -> None:
        """Counts one collective operation."""
        self.calls[what] += 1
        self.bytes_sent[what] += n_bytes

    def clear(self) -> None:
        """Begins anew."""
        self.calls.clear()
        self.bytes_sent.clear()


# Of the whole process, like the process group that it counts for.
traffic = Traffic()


def is_distributed() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """Number of this process among those that train together."""
    return dist.get_rank() if is_distributed() else 0


@contextlib.contextmanager
def exchanging(what: str) -> Iterator[None]:
    """Turns the failure of an exchange into an error that says what it was.

    Args:
      what: Name of what is exchanged in this context.

    Raises:
      CommunicationError: If the backend could not reach the other processes. Errors
        of any other kind pass as they are.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, CommunicationError) or not _is_of_backend(error):
            raise
        raise CommunicationError(
            f'Process {rank()} of {world_size()} could not exchange {what} with the '
            'others. One of them has most likely ended; what it wrote says why. The '
            'run cannot go on without it: start it again from the last checkpoint. '
            f'({error})'
        ) from error


def _is_of_backend(error: RuntimeError) -> bool:
    # Gloo's errors are plain runtime errors, told by the source file they name.
    return isinstance(error, dist.DistError) or 'gloo' in str(error).lower()


def all_reduce_sum(value: Tensor, what: str) -> Tensor:
    """Returns the sum over processes.

    Raises:
      CommunicationError: If the other processes could not be reached.
    """
    if not is_distributed():
        return value
    value = value.clone()
    traffic.record(what, value.nbytes)
    with exchanging(what):
        dist.all_reduce(value)
    return value


def all_gather(value: Tensor, what: str) -> list[Tensor]:
    """Returns the tensors of all processes, which have one shape, by rank.

    Raises:
      CommunicationError: If the other processes could not be reached.
    """
    if not is_distributed():
        return [value]
    found = [torch.empty_like(value) for _ in range(world_size())]
    traffic.record(what, value.nbytes)
    with exchanging(what):
        dist.all_gather(found, value)
    return found


def broadcast(value: Tensor, source: int, what: str) -> None:
    """Overwrites a contiguous tensor with that of another process.

    Args:
      value: Sent by the process `source`, overwritten in the others.
      source: The rank that sends.
      what: Name of what is sent.

    Raises:
      CommunicationError: If the other processes could not be reached.
    """
    traffic.record(what, value.nbytes if rank() == source else 0)
    with exchanging(what):
        dist.broadcast(value, source)
