"""The state of a training run, as it goes into a checkpoint."""

import dataclasses
from typing import Any


def new_train_state() -> dict[str, Any]:
    """Returns AlgoPerf's record of a run, which submissions may read."""
    return {
        'validation_goal_reached': False,
        'test_goal_reached': False,
        'is_time_remaining': True,
        # Long ago, so by AlgoPerf's rule the first step is evaluated.
        'last_eval_time': 0.0,
        'training_complete': False,
        'accumulated_submission_time': 0.0,
        'accumulated_eval_time': 0.0,
        'accumulated_logging_time': 0.0,
        'last_step_end_time': None,
    }


@dataclasses.dataclass
class TrainingState:
    """What a training run changes as it goes; the names are AlgoPerf's."""

    optimizer_state: Any
    model_params: Any
    model_state: Any
    train_state: dict[str, Any] = dataclasses.field(default_factory=new_train_state)
    eval_results: list[tuple[int, dict[str, Any]]] = dataclasses.field(
        default_factory=list
    )
    global_step: int = 0
    preemption_count: int = 0


@dataclasses.dataclass
class RunnerState:
    """What else a run needs to go on exactly where a checkpoint was written.

    Attributes:
        batches_drawn: How many batches were taken from the training queue.
        rows: How many rows the two measurement files had.
        ended_by_submission: Whether the submission declared training complete.
        is_final: Whether the checkpoint was written at the end of the run.
        compilations: Steps taken and seconds, whenever submission time went into
            compiling.
        rng: States of the global random number generators.
    """

    batches_drawn: int = 0
    rows: tuple[int, int] = (0, 0)
    ended_by_submission: bool = False
    is_final: bool = False
    compilations: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    rng: dict[str, Any] = dataclasses.field(default_factory=dict)
