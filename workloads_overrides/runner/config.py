"""What a run is told: fields named like the flags, checked when they are set."""

import dataclasses
import math
from typing import Any

from workloads_overrides.runner.errors import RunnerError

# The self-tuning ruleset has this much more time, since it tunes within the run.
_SELF_TUNING_TIME_FACTOR = 1.5


def _check_at_least(config: Any, minimum: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and value < minimum:
            raise RunnerError(f'{name} must be at least {minimum}, got {value}.')


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """How one trial is trained.

    Attributes:
        framework: `'pytorch'` or `'jax'`.
        tuning_ruleset: `'external'`, or `'self'` with 1.5 times the time budget.
        data_dir: Folder of the data set, for workloads that need one.
        imagenet_v2_data_dir: Folder of ImageNet-v2, for workloads that need it.
        max_global_steps: Steps after which training ends; None for no limit.
        eval_every_steps: Evaluate at the multiples of this step count; None for
            AlgoPerf's rule, by the seconds since the last evaluation.
        checkpoint_every_steps: Save at the multiples of this step count; None
            for a checkpoint at each evaluation.
        save_checkpoints: Whether to save checkpoints at all.
        save_intermediate_checkpoints: Whether to keep all checkpoints or only
            the latest.
        skip_evals: Train without any evaluation.
        stop_at_targets: Whether training ends once the validation and the test
            target are reached.
        validation_only: Whether evaluations look at the validation split alone, the
            only one that AlgoPerf's scores need; then its target is the only one.
        limit_time: Whether training ends when its time budget is used up, which comes
            from the workload's `max_allowed_runtime_sec`.
        torch_compile: Whether to pass the model through `torch.compile`.
    """

    framework: str = 'pytorch'
    tuning_ruleset: str = 'external'
    data_dir: str | None = None
    imagenet_v2_data_dir: str | None = None
    max_global_steps: int | None = None
    eval_every_steps: int | None = None
    checkpoint_every_steps: int | None = None
    save_checkpoints: bool = True
    save_intermediate_checkpoints: bool = True
    skip_evals: bool = False
    stop_at_targets: bool = True
    validation_only: bool = False
    limit_time: bool = True
    torch_compile: bool = False

    def __post_init__(self) -> None:
        if self.tuning_ruleset not in ('external', 'self'):
            raise RunnerError(
                f"tuning_ruleset must be 'external' or 'self', got "
                f'{self.tuning_ruleset!r}.'
            )
        if self.torch_compile and self.framework != 'pytorch':
            raise RunnerError(
                f'--torch_compile is for --framework=pytorch, not {self.framework}; '
                'leave it out.'
            )
        if not self.limit_time and self.max_global_steps is None:
            raise RunnerError(
                '--nolimit_time needs --max_global_steps: training would never end.'
            )
        _check_at_least(
            self, 1, 'max_global_steps', 'eval_every_steps', 'checkpoint_every_steps'
        )

    def time_budget(self, max_allowed_runtime_sec: float) -> float:
        """Returns the submission time in seconds that training may take."""
        if not self.limit_time:
            return math.inf
        if self.tuning_ruleset == 'self':
            return _SELF_TUNING_TIME_FACTOR * max_allowed_runtime_sec
        return max_allowed_runtime_sec


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyConfig(TrialConfig):
    """A submission's trials on one workload, and where their files go.

    Attributes:
        workload: Name of the workload in the registry.
        submission_path: Path of the submission's Python file, inside the
            working directory.
        experiment_dir: Folder of all experiments.
        experiment_name: Name of this experiment, a folder in `experiment_dir`.
        tuning_search_space: Path of the search space (external ruleset only).
        num_tuning_trials: Number of points of the search space to train.
        hparam_start_index: First point to train, counted from 0.
        hparam_end_index: Point before which to stop.
        study: Number of the study, for files under `study_<number>/`.
        append_timestamp: Whether to append the date and time to the name.
        overwrite: Whether to delete an existing experiment of this name.
        resume_last_run: Whether to go on with an existing experiment.
        rng_seed: Seed of each trial; None to draw one for each.
        num_threads: Number of threads within an operation on the CPU.
    """

    workload: str
    submission_path: str
    experiment_dir: str
    experiment_name: str
    tuning_search_space: str | None = None
    num_tuning_trials: int = 1
    hparam_start_index: int | None = None
    hparam_end_index: int | None = None
    study: int | None = None
    append_timestamp: bool = False
    overwrite: bool = False
    resume_last_run: bool = False
    rng_seed: int | None = None
    num_threads: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_at_least(self, 1, 'num_tuning_trials', 'num_threads')
        _check_at_least(
            self, 0, 'hparam_start_index', 'hparam_end_index', 'study', 'rng_seed'
        )
        if self.tuning_ruleset == 'external' and self.tuning_search_space is None:
            raise RunnerError(
                'The external tuning ruleset needs --tuning_search_space, the path '
                'of a JSON file; without one, use --tuning_ruleset=self.'
            )
        if self.tuning_ruleset == 'self' and self.tuning_search_space is not None:
            raise RunnerError(
                'The self-tuning ruleset takes no --tuning_search_space; leave it '
                'out or use --tuning_ruleset=external.'
            )
        if self.overwrite and self.resume_last_run:
            raise RunnerError(
                '--overwrite and --resume_last_run exclude each other; choose one.'
            )
