"""The one clock of the runner, so that every duration is measured alike."""

import time


def now() -> float:
    """Returns the wall-clock time in seconds.

    Not a monotonic clock: the time of the last evaluation is kept in checkpoints
    and has to mean the same in the next process.
    """
    return time.time()
