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
from workloads_overrides.runner.search_space import as_hyperparameters


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
        hyperparameters = as_hyperparameters(
            {**points()[point_name], 'warmup_factor': 0.0}
        )
        self.interval: tuple[Kind, ...] = (
            PLAIN_ONLY if point_name == NADAMW else STATISTICS_FIRST
        )
        self._submission: Any = importlib.import_module(
            f'submission.{task.framework_name}_submission'
        )
        self._params, self._model_state = task.workload.init_model_fn(task.key)
        self._optimizer_state = self._submission.init_optimizer_state(
            task.workload, self._params, self._model_state, hyperparameters, task.key
        )

    @property
    def params(self) -> Any:
        """The parameters; in PyTorch the model."""
        return self._params

    def step(self, batch: Any) -> None:
        """Hands a step to the submission."""
        task = self.task
        self._optimizer_state, self._params, self._model_state = (
            self._submission.update_params(
                workload=task.workload,
                current_param_container=self._params,
                current_params_types=task.workload.model_params_types,
                model_state=self._model_state,
                hyperparameters=None,
                batch=batch,
                loss_type=task.workload.loss_type,
                optimizer_state=self._optimizer_state,
                eval_results=[],
                global_step=self.steps,
                rng=task.framework.fold_in(task.key, self.steps),
            )
        )

    def state_bytes(self) -> int:
        """Returns the size of what a checkpoint holds beside the parameters."""
        state = self._optimizer_state
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
