"""What a person sees of a run: a bar on a terminal, else a line per evaluation."""

import math
import sys
from collections.abc import Mapping
from typing import Any

from absl import logging
from tqdm import tqdm

from workloads_overrides.runner.state import TrainingState


class Progress:
    """Shows the step, the loss, the last and best metric and the time left."""

    def __init__(
        self, metric: str, state: TrainingState, max_steps: int | None, budget: float
    ) -> None:
        """Starts the display.

        Args:
            metric: Name of the metric with targets, on the validation split.
            state: The state of the run, as restored.
            max_steps: Steps after which the run ends, if limited.
            budget: Submission time in seconds after which the run ends.
        """
        self._metric = f'validation/{metric}'
        self._max_steps = max_steps
        self._budget = budget
        self._values = [metrics[self._metric] for _, metrics in state.eval_results]
        self._bar = tqdm(
            total=max_steps,
            initial=state.global_step,
            unit='step',
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            mininterval=0.5,
        )

    def step(self, state: TrainingState, scalars: Mapping[str, Any]) -> None:
        """Shows a step; `scalars` are what the submission logged."""
        if self._bar.disable:
            return
        parts = []
        if 'loss' in scalars:
            parts.append(f'loss {scalars["loss"]:.4g}')
        if self._values:
            parts.append(f'{self._metric} {self._values[-1]:.4g} ({self._best:.4g})')
        parts.append(f'left {tqdm.format_interval(self.seconds_left(state))}')
        self._bar.set_postfix_str(', '.join(parts), refresh=False)
        self._bar.update(state.global_step - self._bar.n)

    def evaluation(self, state: TrainingState, metrics: Mapping[str, Any]) -> None:
        """Shows an evaluation."""
        self._values.append(metrics[self._metric])
        if not self._bar.disable:
            return
        logging.info(
            'Step %d: %s %.5g (best %.5g), submission time %.1f s, evaluation time '
            '%.1f s, about %s left.',
            state.global_step,
            self._metric,
            self._values[-1],
            self._best,
            metrics['accumulated_submission_time'],
            metrics['accumulated_eval_time'],
            tqdm.format_interval(self.seconds_left(state)),
        )

    def seconds_left(self, state: TrainingState) -> float:
        """Returns the time to the step limit or the end of the budget."""
        times = state.train_state
        submission = times['accumulated_submission_time']
        total = submission + times['accumulated_eval_time']
        total += times['accumulated_logging_time']
        # The budget counts submission time only, but the person waits for all.
        wait = total / submission if submission > 0 else 1.0
        left = max(self._budget - submission, 0.0) * wait
        if self._max_steps is not None and state.global_step > 0:
            steps_left = max(self._max_steps - state.global_step, 0)
            left = min(left, steps_left * total / state.global_step)
        return left

    def close(self) -> None:
        """Ends the display."""
        self._bar.close()

    @property
    def _best(self) -> float:
        finite = [value for value in self._values if not math.isnan(value)]
        return max(finite, default=math.nan)
