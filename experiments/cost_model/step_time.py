"""Seconds of a step, and the intervals that keep to an overhead."""

import dataclasses
import math

from experiments.cost_model.operations import Device
from experiments.cost_model.parts import StepCost
from submission.settings import FirstOrderRule


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Seconds of the kinds of work in a step.

    Attributes:
      first_order: A step of NAdamW.
      every_step: What K-FAC adds to every step.
      statistics: What an update of the statistics adds.
      inverses: What an update of the inverses adds.
    """

    first_order: float
    every_step: float
    statistics: float
    inverses: float

    def overhead(self, statistics_interval: int, inverse_interval: int) -> float:
        """Returns the average K-FAC step in units of NAdamW's, less 1."""
        extra = (
            self.every_step
            + self.statistics / statistics_interval
            + self.inverses / inverse_interval
        )
        return extra / self.first_order

    def best_intervals(self, overhead: float) -> tuple[int, int] | None:
        """Returns the shortest intervals that keep to an overhead.

        They minimise the sum of both intervals, twice the mean age of the curvature
        that a step uses. New inverses of old statistics are of no use, so the
        statistics are never renewed less often.

        Args:
          overhead: Largest extra time of the average step, in NAdamW steps.

        Returns:
          Statistics and inverse interval; None if every step adds too much already.
        """
        budget = overhead * self.first_order - self.every_step
        if budget <= 0:
            return None
        roots = math.sqrt(self.statistics), math.sqrt(self.inverses)
        if roots[1] >= roots[0]:
            lengths = tuple(root * sum(roots) / budget for root in roots)
        else:
            lengths = ((self.statistics + self.inverses) / budget,) * 2
        statistics, inverse = (max(1, math.ceil(length)) for length in lengths)
        return statistics, inverse


def step_time(
    cost: StepCost,
    device: Device,
    approximation: str,
    fisher_type: str,
    first_order_rule: FirstOrderRule = 'nadamw',
) -> StepTime:
    """Returns the times of a variant of K-FAC.

    The moments of the spectral rule, of which it has the first alone where it has
    directions, count as those of NAdamW.
    """
    seconds = {
        name: device.seconds(part) for name, part in cost.parts(approximation).items()
    }
    statistics = seconds['factors'] + seconds['factor all-reduce']
    if fisher_type == 'monte_carlo':
        statistics += seconds['extra backward']
    return StepTime(
        first_order=sum(
            seconds[name]
            for name in (
                'forward',
                'backward',
                'gradient all-reduce',
                'first-order rule',
            )
        ),
        every_step=seconds[
            'spectral directions'
            if first_order_rule == 'spectral'
            else 'preconditioning'
        ],
        statistics=statistics,
        inverses=seconds['inverses'] + seconds['broadcast'],
    )
