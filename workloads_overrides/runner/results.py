"""What came out of a trial, kept in `result.json`."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

from workloads_overrides.runner.atomic_files import read_json, write_json
from workloads_overrides.runner.config import TrialConfig
from workloads_overrides.runner.errors import RunnerError
from workloads_overrides.runner.state import RunnerState, TrainingState

_REMEDY = 'Delete it; --resume_last_run writes it again from the last checkpoint.'

TARGETS = 'targets'
TIME_BUDGET = 'time_budget'
STEP_LIMIT = 'step_limit'
SUBMISSION = 'submission'


@dataclasses.dataclass(frozen=True)
class TrialResult:
    """The outcome of a trial, so far or at its end.

    Attributes:
        target_metric_name: The metric that has targets.
        validation_target_value: Target on the validation split.
        test_target_value: Target on the test split.
        steps_to_validation_target: Step of the first evaluation above the target;
            None if there was none.
        seconds_to_validation_target: Submission time at that evaluation.
        steps_to_test_target: The same for the test split.
        seconds_to_test_target: The same for the test split.
        final_metrics: The last evaluation; empty before the first.
        global_step: Steps taken.
        submission_seconds: Submission time, the one that counts.
        compilations: Steps taken and seconds, whenever submission time went into
            compiling; resumed runs compile again.
        seconds_per_step: Submission time for each step, without compilation.
        finished: Whether the trial has ended.
        stop_reason: Why: `'targets'`, `'time_budget'`, `'step_limit'` or
            `'submission'` (it declared training complete); None before the end.
        rng_seed: Seed of the trial.
    """

    target_metric_name: str
    validation_target_value: float
    test_target_value: float
    steps_to_validation_target: int | None
    seconds_to_validation_target: float | None
    steps_to_test_target: int | None
    seconds_to_test_target: float | None
    final_metrics: dict[str, Any]
    global_step: int
    submission_seconds: float
    compilations: list[tuple[int, float]]
    seconds_per_step: float | None
    finished: bool
    stop_reason: str | None
    rng_seed: int

    def is_final_under(self, config: TrialConfig) -> bool:
        """Whether the trial has ended and this configuration would not go on."""
        if self.stop_reason == TARGETS:
            enough = config.validation_only or self.steps_to_test_target is not None
            return config.stop_at_targets and enough
        if self.stop_reason == STEP_LIMIT:
            limit = config.max_global_steps
            return limit is not None and self.global_step >= limit
        if self.stop_reason == TIME_BUDGET:
            return config.limit_time
        return self.finished


def summarise(
    workload: Any,
    state: TrainingState,
    runner_state: RunnerState,
    rng_seed: int,
    stop_reason: str | None,
) -> TrialResult:
    """Returns the result of a trial from its state.

    Args:
        workload: The workload, for its targets.
        state: The state of the run.
        runner_state: The runner's own state.
        rng_seed: Seed of the trial.
        stop_reason: Why the run ended; None while it goes on.
    """
    validation = _first(state, workload.has_reached_validation_target)
    test = _first(state, workload.has_reached_test_target)
    seconds = state.train_state['accumulated_submission_time']
    compilations = [(step, spent) for step, spent in runner_state.compilations]
    training_seconds = seconds - sum(spent for _, spent in compilations)
    return TrialResult(
        target_metric_name=workload.target_metric_name,
        validation_target_value=workload.validation_target_value,
        test_target_value=workload.test_target_value,
        steps_to_validation_target=validation[0],
        seconds_to_validation_target=validation[1],
        steps_to_test_target=test[0],
        seconds_to_test_target=test[1],
        final_metrics=state.eval_results[-1][1] if state.eval_results else {},
        global_step=state.global_step,
        submission_seconds=seconds,
        compilations=compilations,
        seconds_per_step=(
            training_seconds / state.global_step if state.global_step else None
        ),
        finished=stop_reason is not None,
        stop_reason=stop_reason,
        rng_seed=rng_seed,
    )


def _first(
    state: TrainingState, has_reached: Callable[[dict[str, Any]], bool]
) -> tuple[int | None, float | None]:
    for step, metrics in state.eval_results:
        if has_reached(metrics):
            return step, metrics['accumulated_submission_time']
    return None, None


def write_result(trial_dir: pathlib.Path, result: TrialResult) -> None:
    """Writes `result.json`."""
    write_json(trial_dir / 'result.json', dataclasses.asdict(result))


def read_result(trial_dir: pathlib.Path) -> TrialResult | None:
    """Returns the content of `result.json`; None if there is no such file.

    Raises:
        RunnerError: If the file is damaged.
    """
    path = trial_dir / 'result.json'
    if not path.exists():
        return None
    content = read_json(path, _REMEDY)
    try:
        # JSON has no tuples.
        compilations = [tuple(entry) for entry in content['compilations']]
        return TrialResult(**{**content, 'compilations': compilations})
    except (KeyError, TypeError) as error:
        raise RunnerError(
            f'{path} does not hold the result of a trial ({error!r}). {_REMEDY}'
        ) from error
