"""The one interface through which all methods are trained and timed."""

import abc
import time
from collections.abc import Callable
from typing import Any, Literal

from experiments.peers.task import Task
from experiments.training import timed

# `statistics`: a step with new curvature statistics and what follows from them.
# `plain`: a step between two of those. `factors`: forward and backward pass and
# Kronecker factors alone, without a step. `update`: those and their inverses.
Kind = Literal['statistics', 'plain', 'factors', 'update']

# Steps between two updates of the statistics.
INTERVAL = 10
_PLAIN: Kind = 'plain'
PLAIN_ONLY: tuple[Kind, ...] = (_PLAIN,) * INTERVAL
STATISTICS_FIRST: tuple[Kind, ...] = ('statistics', *PLAIN_ONLY[1:])
STATISTICS_LAST: tuple[Kind, ...] = STATISTICS_FIRST[::-1]


class Method(abc.ABC):
    """A method under way, which knows what kind its next step is.

    Attributes:
      task: What is trained.
      interval: Kinds of the steps of one interval, in their order.
      note: What a reader of its figures has to know.
      steps: Steps taken.
      compilation: Seconds of compilation so far.
      clock: Returns seconds.
    """

    interval: tuple[Kind, ...] = STATISTICS_FIRST
    note: str = ''

    def __init__(self, task: Task) -> None:
        self.task = task
        self.steps = 0
        self.compilation = 0.0
        self.clock: Callable[[], float] = time.perf_counter
        self._queue = task.queue()

    @property
    def next_kind(self) -> Kind:
        """The kind of the step that comes next."""
        return self.interval[self.steps % len(self.interval)]

    @property
    @abc.abstractmethod
    def params(self) -> Any:
        """The parameters; in PyTorch the model."""

    @abc.abstractmethod
    def step(self, batch: Any) -> None:
        """Takes the next step, of whatever kind it is."""

    @abc.abstractmethod
    def state_bytes(self) -> int:
        """Returns the size of all that is remembered beside the parameters."""

    def take(self) -> tuple[Kind, float]:
        """Takes the next step.

        Returns:
          Its kind, and its seconds without its batch and compilation.
        """
        framework, kind = self.task.framework, self.next_kind
        batch = next(self._queue)

        def work() -> None:
            self.step(batch)
            framework.wait_for(self.params)

        seconds, compiled = timed(work, framework, self.clock)
        self.steps += 1
        self.compilation += compiled
        return kind, seconds

    def train(self, intervals: int) -> tuple[float, float]:
        """Trains for some intervals; the loss on one batch before and after."""
        before = self.task.probe_loss(self.params)
        for _ in range(intervals * len(self.interval)):
            self.take()
        return before, self.task.probe_loss(self.params)
