"""What steps cost when they are timed apart from the runs."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class StepSeconds:
    """Seconds of a method's steps, measured apart.

    Attributes:
      per_step: Seconds of a step.
      compilation: Seconds of compilation, once a run; 0 where nothing is compiled.
    """

    per_step: float
    compilation: float = 0.0

    def until(self, steps: float) -> float:
        """Returns the seconds from the start of a run to the end of a step."""
        return self.compilation + steps * self.per_step
