"""What steps cost when they are timed apart from the runs."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class StepCost:
    """Seconds of a method's steps.

    Attributes:
      seconds: Seconds of a step.
      compilation: Seconds of compilation, once a run; 0 where nothing is compiled.
    """

    seconds: float
    compilation: float = 0.0

    def until(self, steps: float) -> float:
        """Returns the seconds from the start of a run to the end of a step."""
        return self.compilation + steps * self.seconds
