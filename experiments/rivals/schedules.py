"""The learning-rate schedule that each rival's authors use, in units of its peak."""

from experiments.rivals.settings import RivalName
from submission.schedule import learning_rate_at

# AlgoPerf's Nesterov rule for ogbg: where the linear decay ends, and on what.
_NESTEROV_DECAY = 0.861509027839639
_NESTEROV_END = 0.001
# Muon's: the share of the schedule over which the rate falls to zero.
_MUON_COOLDOWN = 0.4


def learning_rate_factor(
    optimizer: RivalName, step: int, warmup_factor: float, schedule_steps: int
) -> float:
    """Returns the learning rate of a step as a share of its peak.

    Args:
      optimizer: Whose schedule: linear warm-up and cosine decay for SOAP and Shampoo,
        linear warm-up and linear decay for Nesterov, a constant with a linear
        cool-down for Muon, and a constant for Schedule-Free, which warms up by itself.
      step: Number of steps taken before this one.
      warmup_factor: Share of the schedule spent warming up.
      schedule_steps: Length of the whole schedule in steps.
    """
    if optimizer in ('soap', 'shampoo'):
        return learning_rate_at(step, 1.0, warmup_factor, schedule_steps)
    if optimizer == 'schedule_free_adamw':
        return 1.0
    warmup_steps = int(warmup_factor * schedule_steps)
    if step < warmup_steps:
        return step / warmup_steps
    if optimizer == 'nesterov':
        decay_steps = max(_NESTEROV_DECAY * schedule_steps, 1.0)
        progress = min((step - warmup_steps) / decay_steps, 1.0)
        return 1.0 + progress * (_NESTEROV_END - 1.0)
    left = max(schedule_steps - step, 0) / schedule_steps
    return min(left / _MUON_COOLDOWN, 1.0)
