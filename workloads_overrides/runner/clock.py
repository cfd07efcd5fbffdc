"""The one clock of the runner, so that every duration is measured alike."""

import time

import torch


def now() -> float:
    """Returns the wall-clock time in seconds once all device work has ended.

    Wall-clock time, not a monotonic clock: the time of the last evaluation is
    kept in checkpoints and has to mean the same in the next process.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.time()
