"""The schedule of learning rate and weight decay, the same in both frameworks."""

import dataclasses
import math

from .settings import Settings

# The length of the schedules that weight decay was tuned on.
REFERENCE_STEPS = 1000


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
        _schedule_steps(settings, step_hint),
    )


def with_scheduled_weight_decay(settings: Settings, step_hint: int) -> Settings:
    """Returns the settings with the weight decay that suits the schedule's length.

    An update is forgotten within about 1 / (learning_rate * weight_decay) steps. How
    long that should be is a matter of epochs rather than of steps (Wang and Aitchison,
    2024, arXiv 2405.13698): what suits a short schedule forgets too soon on a long one.

    Args:
      settings: The trial's settings.
      step_hint: As for `scheduled_learning_rate`.

    Returns:
      The settings with `weight_decay * (1000 / steps) ** weight_decay_exponent` for
      schedules of more than 1000 steps, and an exponent of zero.
    """
    longer = max(_schedule_steps(settings, step_hint) / REFERENCE_STEPS, 1.0)
    return dataclasses.replace(
        settings,
        weight_decay=settings.weight_decay * longer**-settings.weight_decay_exponent,
        weight_decay_exponent=0.0,
    )


def _schedule_steps(settings: Settings, step_hint: int) -> int:
    return round(settings.step_hint_factor * step_hint)
