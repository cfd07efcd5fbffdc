"""The submission's K-FAC and NAdamW, in either framework."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax

from experiments.peers.method import PLAIN_ONLY, STATISTICS_FIRST, Kind, Method
from experiments.peers.pytorch_method import tensor_bytes
from experiments.peers.task import Task
from experiments.step_time.variants import (
    APPROXIMATIONS,
    NADAMW,
    points,
    variant_name,
)
from experiments.training import Training


class Ours(Method):
    """A run of the submission, through the functions that AlgoPerf calls."""

    def __init__(self, task: Task, point_name: str) -> None:
        """Starts the run.

        Args:
          task: What is trained.
          point_name: Name of the hyperparameters in `step_time.variants`.
        """
        super().__init__(task)
        # Without the warm-up, as the peers train.
        point = {**points()[point_name], 'warmup_factor': 0.0}
        self.interval: tuple[Kind, ...] = (
            PLAIN_ONLY if point_name == NADAMW else STATISTICS_FIRST
        )
        submission = importlib.import_module(
            f'submission.{task.framework_name}_submission'
        )
        self._training = Training.start(
            task.workload, task.framework_name, submission, point, task.batch_size
        )

    @property
    def params(self) -> Any:
        """The parameters; in PyTorch the model."""
        return self._training.state[1]

    def step(self, batch: Any) -> None:
        """Hands a step to the submission."""
        self._training.update(batch, self.steps)

    def state_bytes(self) -> int:
        """Returns the size of what a checkpoint holds beside the parameters."""
        state = self._training.state[0]
        if self.task.framework_name == 'jax':
            return sum(leaf.nbytes for leaf in jax.tree.leaves(state[0]))
        return tensor_bytes([part.state_dict() for part in state.values()])


def methods(fisher_type: str) -> dict[str, Callable[[Task], Method]]:
    """Returns what makes NAdamW and K-FAC, by name.

    Args:
      fisher_type: `'monte_carlo'` or `'empirical'`, as the peer has it.
    """
    variants = [variant_name(each, fisher_type) for each in APPROXIMATIONS]
    made: dict[str, Callable[[Task], Method]] = {
        f'ours, {name}': functools.partial(Ours, point_name=name) for name in variants
    }
    return {NADAMW: functools.partial(Ours, point_name=NADAMW), **made}
