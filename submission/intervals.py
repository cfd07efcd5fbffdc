"""Which steps renew the Kronecker factors and their inverses."""

# How many times an interval can double. Eight times as long, updates cost next to
# nothing, and older factors would save nothing more.
MAX_DOUBLINGS = 3


def interval_at(step: int, interval: int, growth: float) -> int:
    """Returns the steps between two updates at a step.

    Curvature changes ever more slowly on a long run, so that updates are worth less and
    less of the time that they take.

    Args:
      step: Number of steps taken before this one.
      interval: Steps between two updates at first.
      growth: Share of the steps taken that may pass between two updates.

    Returns:
      The largest `interval * 2**k` that is at most `growth * step`, but at least
      `interval` and at most `interval * 2**MAX_DOUBLINGS`.
    """
    multiple = int(growth * step / interval)
    return interval << min(max(multiple.bit_length() - 1, 0), MAX_DOUBLINGS)


def is_update_step(step: int, interval: int, growth: float) -> bool:
    """Whether a step updates what is updated in intervals.

    The first two steps always do: a zero-initialised output layer hides all curvature
    below it in the first.
    """
    return step <= 1 or step % interval_at(step, interval, growth) == 0
