"""A training run that takes one step at a time, of the kind that is asked for."""

import dataclasses
import importlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from submission.settings import Settings, get_batch_size
from workloads_overrides import registry
from workloads_overrides.runner import frameworks
from workloads_overrides.runner.frameworks import Framework
from workloads_overrides.runner.search_space import as_hyperparameters

StepKind = Literal['plain', 'statistics']


def default_batch_size(workload_name: str) -> int:
    """Returns the submission's batch size for a workload, as a runner asks for it."""
    try:
        return get_batch_size(workload_name)
    except ValueError:
        return get_batch_size(registry.base_name(workload_name))


@dataclasses.dataclass
class Run:
    """A training run under way.

    Attributes:
      framework: What the runner knows of the framework.
      submission: The submission's module.
      settings: The trial's settings.
      workload: The workload.
      state: The optimiser's state, the parameters and the model's state.
      queue: Training batches.
      key: Key of the run.
      clock: Returns seconds.
      step: Number of the next step, or less than it.
      compilation: Seconds of compilation by step, of those that compiled anything.
    """

    framework: Framework
    submission: Any
    settings: Settings
    workload: Any
    state: tuple[Any, Any, Any]
    queue: Any
    key: Any
    clock: Callable[[], float] = time.perf_counter
    step: int = 0
    compilation: dict[int, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def start(
        cls,
        workload: Any,
        framework_name: str,
        point: Mapping[str, Any],
        batch_size: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> 'Run':
        """Initialises model and optimiser.

        Args:
          workload: The workload; several runs of one model may share it.
          framework_name: `'pytorch'` or `'jax'`.
          point: Hyperparameters.
          batch_size: Examples in a batch.
          clock: Returns seconds.
        """
        framework = frameworks.load(framework_name)
        submission = importlib.import_module(f'submission.{framework_name}_submission')
        key = framework.prng_key(0)
        queue = workload._build_input_queue(key, 'train', None, batch_size)
        params, model_state = workload.init_model_fn(key)
        hyperparameters = as_hyperparameters(dict(point))
        optimizer_state = submission.init_optimizer_state(
            workload, params, model_state, hyperparameters, key
        )
        return cls(
            framework,
            submission,
            Settings.from_hyperparameters(hyperparameters),
            workload,
            (optimizer_state, params, model_state),
            queue,
            key,
            clock,
        )

    @property
    def kinds(self) -> tuple[StepKind, ...]:
        """The kinds of step that the run has."""
        if self.settings.approximation == 'none':
            return ('plain',)
        return ('statistics', 'plain')

    def take(self, kind: StepKind) -> float:
        """Takes a step and returns its seconds, without its batch and compilation.

        Which kind a step is follows from its number, so numbers of the other kind
        are left out. A run with nothing but statistics steps is one whose interval
        is 1.

        Args:
          kind: Whether the factors and their inverses are renewed; without K-FAC
            all steps are plain.
        """
        if len(self.kinds) > 1:
            is_statistics = self.settings.is_statistics_step
            while is_statistics(self.step) != (kind == 'statistics'):
                self.step += 1
        batch = next(self.queue)
        key = self.framework.fold_in(self.key, self.step)
        optimizer_state, params, model_state = self.state
        compiled_before = self.framework.compilation_seconds()
        start = self.clock()
        self.state = self.submission.update_params(
            workload=self.workload,
            current_param_container=params,
            current_params_types=self.workload.model_params_types,
            model_state=model_state,
            hyperparameters=None,
            batch=batch,
            loss_type=self.workload.loss_type,
            optimizer_state=optimizer_state,
            eval_results=[],
            global_step=self.step,
            rng=key,
        )
        self.framework.wait_for(*self.state[1:])
        elapsed = self.clock() - start
        compiled = self.framework.compilation_seconds() - compiled_before
        if compiled > 0:
            self.compilation[self.step] = round(compiled, 3)
        self.step += 1
        return elapsed - compiled

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
        name: Run.start(workload, framework_name, point, batch_size)
        for name, point in points.items()
    }
