"""Which steps renew the Kronecker factors and their inverses."""


def interval_at(step: int, interval: int, growth: float) -> int:
    """Returns the steps between two updates at a step.

    Curvature changes ever more slowly on a long run. An interval that grows with the
    steps taken, by factors of two, needs a number of updates that grows with their
    logarithm.

    Args:
      step: Number of steps taken before this one.
      interval: Steps between two updates at first.
      growth: Share of the steps taken that may pass between two updates.

    Returns:
      The largest `interval * 2**k` that is at most `growth * step`, but at least
      `interval`.
    """
    multiple = int(growth * step / interval)
    return interval << max(multiple.bit_length() - 1, 0)


def is_update_step(step: int, interval: int, growth: float) -> bool:
    """Whether a step updates what is updated in intervals.

    The first two steps always do: a zero-initialised output layer hides all curvature
    below it in the first.
    """
    return step <= 1 or step % interval_at(step, interval, growth) == 0
