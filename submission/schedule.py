"""The learning-rate schedule, the same in both frameworks."""

import math

from .settings import Settings


def learning_rate_at(
    step: int, peak: float, warmup_factor: float, schedule_steps: int
) -> float:
    """Returns the learning rate of a step: linear warm-up, then cosine decay.

    The same numbers as AlgoPerf's NAdamW baseline, except that the rate stays at
    zero after the end of the schedule, where the baseline's cosine comes back up.

    Args:
      step: Number of steps taken before this one.
      peak: The learning rate at the end of the warm-up.
      warmup_factor: Share of the schedule spent warming up.
      schedule_steps: Length of the whole schedule in steps.
    """
    warmup_steps = int(warmup_factor * schedule_steps)
    if step < warmup_steps:
        # The baseline starts at a factor of 1e-10, not 0.
        start = 1e-10
        return peak * (start + (1.0 - start) * step / warmup_steps)
    decay_steps = max(schedule_steps - warmup_steps, 1)
    progress = min((step - warmup_steps) / decay_steps, 1.0)
    return peak * 0.5 * (1.0 + math.cos(math.pi * progress))


def scheduled_learning_rate(settings: Settings, step_hint: int, step: int) -> float:
    """Returns the learning rate of a trial's step.

    Args:
      settings: The trial's settings.
      step_hint: The workload's number of steps, in whose multiples a schedule is long.
      step: Number of steps taken before this one.
    """
    return learning_rate_at(
        step,
        settings.learning_rate,
        settings.warmup_factor,
        round(settings.step_hint_factor * step_hint),
    )
