"""A training run that takes one step at a time, of the kind that is asked for."""

import importlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from experiments.training import Training
from submission.settings import Settings

StepKind = Literal['plain', 'factors', 'statistics']


class Run:
    """A run of the K-FAC submission.

    Attributes:
      training: The training.
      settings: The trial's settings.
      step: Number of the next step, or less than it.
    """

    def __init__(
        self,
        workload: Any,
        framework_name: str,
        point: Mapping[str, Any],
        batch_size: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Initialises model and optimiser.

        Args:
          workload: The workload; several runs of one model may share it.
          framework_name: `'pytorch'` or `'jax'`.
          point: Hyperparameters.
          batch_size: Examples in a batch.
          clock: Returns seconds.
        """
        submission = importlib.import_module(f'submission.{framework_name}_submission')
        self.training = Training.start(
            workload, framework_name, submission, point, batch_size, clock
        )
        self.settings = Settings.from_hyperparameters(self.training.hyperparameters)
        self.step = 0

    @property
    def kinds(self) -> tuple[StepKind, ...]:
        """The kinds of step that it has whatever its intervals."""
        if self.settings.approximation == 'none':
            return ('plain',)
        return ('statistics', 'plain')

    def take(self, kind: StepKind, number: int = 1) -> float:
        """Takes steps of a kind in a row; returns the seconds of one, their mean.

        Which kind a step is follows from its number, so numbers of other kinds are
        left out. A run with nothing but statistics steps is one whose intervals are
        1.

        Args:
          kind: What is renewed: the factors and their inverses (`statistics`), the
            factors alone, or neither (`plain`). Without K-FAC all steps are plain.
          number: How many, between which nothing waits for the device.

        Raises:
          ValueError: If there is no step with new factors alone, since inverses are
            renewed as often.
        """
        settings = self.settings
        if (
            kind == 'factors'
            and settings.inverse_interval <= settings.statistics_interval
        ):
            raise ValueError(
                'No step renews the factors alone with a statistics_interval of '
                f'{settings.statistics_interval} and an inverse_interval of '
                f'{settings.inverse_interval}; make the latter longer.'
            )
        return self.training.take_steps([self._next(kind) for _ in range(number)])

    def _next(self, kind: StepKind) -> int:
        if len(self.kinds) > 1:
            while self._kind_of(self.step) != kind:
                self.step += 1
        self.step += 1
        return self.step - 1

    def _kind_of(self, step: int) -> StepKind:
        if not self.settings.is_statistics_step(step):
            return 'plain'
        return 'statistics' if self.settings.is_inverse_step(step) else 'factors'

    def warm_up(self) -> None:
        """Takes the first steps, which compile, allocate and fill the state."""
        for kind in ('statistics', 'statistics', 'plain', 'plain'):
            self.take(kind)


def start_all(
    workload: Any,
    framework_name: str,
    points: Mapping[str, Mapping[str, Any]],
    batch_size: int,
) -> dict[str, Run]:
    """Returns a run for each point, by the points' names."""
    return {
        name: Run(workload, framework_name, point, batch_size)
        for name, point in points.items()
    }
