"""A training run under way, one step at a time."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from workloads_overrides.runner import frameworks
from workloads_overrides.runner.frameworks import Framework
from workloads_overrides.runner.search_space import as_hyperparameters


@dataclasses.dataclass
class Training:
    """A training run.

    Attributes:
      framework: What the runner knows of the framework.
      submission: The submission: its module, or its functions.
      hyperparameters: The point, as a runner gives it to the submission.
      workload: The workload.
      state: The optimiser's state, the parameters and the model's state.
      queue: Training batches.
      key: Key of the run.
      clock: Returns seconds.
      compilation: Seconds of compilation by step, the first of several in a row, of
        those that compiled anything.
    """

    framework: Framework
    submission: Any
    hyperparameters: Any
    workload: Any
    state: tuple[Any, Any, Any]
    queue: Any
    key: Any
    clock: Callable[[], float] = time.perf_counter
    compilation: dict[int, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def start(
        cls,
        workload: Any,
        framework_name: str,
        submission: Any,
        point: Mapping[str, Any],
        batch_size: int,
        clock: Callable[[], float] = time.perf_counter,
        *,
        seed: int = 0,
        params: Any = None,
        data_rng: Any = None,
    ) -> Self:
        """Initialises model and optimiser.

        Args:
          workload: The workload; several runs of one model may share it.
          framework_name: `'pytorch'` or `'jax'`.
          submission: The submission: its module, or its functions.
          point: Hyperparameters.
          batch_size: Examples in a batch.
          clock: Returns seconds.
          seed: Seed of initial parameters, order of batches and sampled labels.
          params: Initial parameters; those of the seed if not given.
          data_rng: Key of the order of batches, in case it should be the same in
            both frameworks, whose keys differ; that of the seed if not given.
        """
        framework = frameworks.load(framework_name)
        key = framework.prng_key(seed)
        queue = workload._build_input_queue(
            key if data_rng is None else data_rng, 'train', None, batch_size
        )
        own_params, model_state = workload.init_model_fn(key)
        params = own_params if params is None else params
        hyperparameters = as_hyperparameters(dict(point))
        optimizer_state = submission.init_optimizer_state(
            workload, params, model_state, hyperparameters, key
        )
        state = (optimizer_state, params, model_state)
        return cls(
            framework, submission, hyperparameters, workload, state, queue, key, clock
        )

    def take_steps(self, steps: Sequence[int]) -> float:
        """Takes steps in a row, waiting for the device once, after the last.

        A runner does not wait between steps either, so that the device can be at work
        on one while the host prepares the next.

        Args:
          steps: Their numbers.

        Returns:
          Seconds of a step, their mean, without batches and compilation.
        """
        batches = [next(self.queue) for _ in steps]

        def work() -> None:
            for step, batch in zip(steps, batches, strict=True):
                self.update(batch, step)
            self.framework.wait_for(*self.state[1:])

        seconds, compiled = timed(work, self.framework, self.clock)
        if compiled > 0:
            self.compilation[steps[0]] = round(compiled, 3)
        return seconds / len(steps)

    def update(self, batch: Any, step: int) -> None:
        """Hands a step to the submission; the device may still be at work on it."""
        optimizer_state, params, model_state = self.state
        self.state = self.submission.update_params(
            workload=self.workload,
            current_param_container=params,
            current_params_types=self.workload.model_params_types,
            model_state=model_state,
            hyperparameters=self.hyperparameters,
            batch=batch,
            loss_type=self.workload.loss_type,
            optimizer_state=optimizer_state,
            eval_results=[],
            global_step=step,
            rng=self.framework.fold_in(self.key, step),
        )


def timed(
    work: Callable[[], None], framework: Framework, clock: Callable[[], float]
) -> tuple[float, float]:
    """Does something; returns its seconds without compilation, and those of it."""
    compiled_before = framework.compilation_seconds()
    start = clock()
    work()
    elapsed = clock() - start
    compiled = framework.compilation_seconds() - compiled_before
    return elapsed - compiled, compiled
