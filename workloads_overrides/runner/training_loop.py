"""Trains one trial by AlgoPerf's rules.

Submission time is the time of data selection, `update_params` and
`prepare_for_eval`. Compilation within them counts, and is noted by itself.
Initialisation, evaluation, logging and checkpoints are not counted. The time budget
is checked after each step, where AlgoPerf checks it when an evaluation is due; no
evaluation is added or lost by that.
"""

import contextlib
import inspect
import os
import pathlib
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

from absl import logging

from workloads_overrides.runner import (
    checkpoints,
    clock,
    frameworks,
    global_rng,
    results,
)
from workloads_overrides.runner.config import TrialConfig
from workloads_overrides.runner.input_queue import CountingQueue
from workloads_overrides.runner.metrics_logger import MetricsLogger, plain_scalar
from workloads_overrides.runner.progress import Progress
from workloads_overrides.runner.state import RunnerState, TrainingState
from workloads_overrides.runner.submission_functions import SubmissionFunctions
from workloads_overrides.runner.trial_files import (
    keep_hyperparameters,
    keep_seed,
    trained_hyperparameters,
    write_run_facts,
)


def run_trial(
    workload: Any,
    workload_name: str,
    submission: SubmissionFunctions,
    hyperparameters: Any,
    config: TrialConfig,
    trial_dir: str | os.PathLike[str],
    rng_seed: int | None = None,
) -> results.TrialResult:
    """Trains one trial, or goes on with it where its last checkpoint is.

    Args:
        workload: A new workload object.
        workload_name: Its name, for the submission's batch size.
        submission: The submission's functions.
        hyperparameters: A named tuple, or None under the self-tuning ruleset.
        config: How to train.
        trial_dir: Folder of the trial's files; made if missing.
        rng_seed: Seed of the trial; None for a new one, or the one that the
            trial began with.

    Returns:
        The outcome, which is also in `result.json`.
    """
    folder = pathlib.Path(trial_dir)
    folder.mkdir(parents=True, exist_ok=True)
    earlier = results.read_result(folder)
    if earlier is not None and earlier.is_final_under(config):
        logging.info('The trial in %s has ended already.', folder)
        trained_hyperparameters(folder, hyperparameters)
        return earlier
    trial = _Trial(
        workload,
        workload_name,
        submission,
        keep_hyperparameters(folder, hyperparameters),
        config,
        folder,
        keep_seed(folder, rng_seed),
    )
    try:
        return trial.train()
    finally:
        trial.close()


class _Trial:
    """One training run, from its initialisation to its result."""

    def __init__(
        self,
        workload: Any,
        workload_name: str,
        submission: SubmissionFunctions,
        hyperparameters: Any,
        config: TrialConfig,
        folder: pathlib.Path,
        rng_seed: int,
    ) -> None:
        self._workload = workload
        self._submission = submission
        self._hyperparameters = hyperparameters
        self._config = config
        self._framework = framework = frameworks.load(config.framework)
        self._folder = folder
        self._rng_seed = rng_seed
        self._budget = config.time_budget(workload.max_allowed_runtime_sec)
        self._wants_train_state = (
            'train_state' in inspect.signature(submission.update_params).parameters
        )
        if config.validation_only:
            workload.evaluated_splits = ('validation',)
        eval_batch_size = submission.get_eval_batch_size
        self._eval_batch_size = (
            workload.eval_batch_size
            if eval_batch_size is None
            else eval_batch_size(workload_name)
        )

        key = framework.prng_key(rng_seed)
        if config.tuning_ruleset == 'external':
            # AlgoPerf splits the first key under this ruleset only.
            key = framework.split(key, 2)[0]
        data_key, optimizer_key, model_key, self._key = framework.split(key, 4)
        # Workloads seed the global generators when they make the model; this
        # keeps a trial independent of earlier ones also where one does not.
        global_rng.seed(framework, rng_seed)
        self._queue = CountingQueue(
            workload._build_input_queue(
                data_key,
                'train',
                data_dir=config.data_dir,
                global_batch_size=submission.batch_size(workload_name),
            )
        )
        model_params, model_state = workload.init_model_fn(model_key)
        if config.torch_compile:
            # Only here, since a run in JAX does without PyTorch.
            import torch

            model_params = torch.compile(model_params)
        optimizer_state = submission.init_optimizer_state(
            workload, model_params, model_state, hyperparameters, optimizer_key
        )
        self._state = TrainingState(optimizer_state, model_params, model_state)
        self._runner_state = RunnerState()
        self._restore()

        self._logger = MetricsLogger(folder, self._runner_state.rows)
        workload.attach_metrics_logger(self._logger)
        write_run_facts(
            folder,
            self._state.preemption_count,
            workload,
            self._framework,
            config,
            rng_seed,
        )
        self._progress = Progress(
            workload.target_metric_name,
            self._state,
            config.max_global_steps,
            self._budget,
        )

    def train(self) -> results.TrialResult:
        """Takes steps until a stopping rule holds; returns the outcome."""
        times = self._state.train_state
        self._start_time = self._now_that_all_is_done()
        times['last_step_end_time'] = self._start_time
        while self._stop_reason() is None:
            self._step_and_evaluate()
            # What lies between a step's end and here is not submission time.
            times['last_step_end_time'] = clock.now()
        return self._finish()

    def close(self) -> None:
        """Closes the files and the progress display."""
        self._logger.finish()
        self._progress.close()

    def _restore(self) -> None:
        if self._config.save_checkpoints:
            self._framework.check_optimizer_state(self._state.optimizer_state)
        restored = checkpoints.restore_checkpoint(
            self._framework, self._folder, self._state
        )
        if restored is None:
            return
        self._runner_state = restored
        # A run may go on beyond the limit of steps or of time that ended it before.
        times = self._state.train_state
        times['training_complete'] = (
            restored.ended_by_submission or self._at_step_limit()
        )
        times['is_time_remaining'] = self._within_budget()
        self._queue.skip(restored.batches_drawn)
        # Last, since everything before may have drawn random numbers.
        global_rng.set_state(self._framework, restored.rng)

    def _now_that_all_is_done(self) -> float:
        # Devices work on their own; what they still owe belongs to what asked for it.
        state = self._state
        self._framework.wait_for(
            state.optimizer_state, state.model_params, state.model_state
        )
        return clock.now()

    @contextlib.contextmanager
    def _compilation_noted(self) -> Iterator[None]:
        before = self._framework.compilation_seconds()
        yield
        seconds = self._framework.compilation_seconds() - before
        if seconds > 0:
            self._runner_state.compilations.append((self._state.global_step, seconds))

    def _at_step_limit(self) -> bool:
        limit = self._config.max_global_steps
        return limit is not None and self._state.global_step >= limit

    def _within_budget(self) -> bool:
        times = self._state.train_state
        return times['accumulated_submission_time'] < self._budget

    def _goals_reached(self) -> bool:
        goals = self._state.train_state
        test = self._config.validation_only or goals['test_goal_reached']
        return goals['validation_goal_reached'] and test

    def _stop_reason(self) -> str | None:
        train_state = self._state.train_state
        if self._config.stop_at_targets and self._goals_reached():
            return results.TARGETS
        if not train_state['is_time_remaining']:
            return results.TIME_BUDGET
        if self._runner_state.ended_by_submission:
            return results.SUBMISSION
        return results.STEP_LIMIT if self._at_step_limit() else None

    def _step_and_evaluate(self) -> None:
        self._runner_state.is_final = False
        step_key = self._framework.fold_in(self._key, self._state.global_step)
        data_key, update_key, prepare_key, eval_key = self._framework.split(step_key, 4)
        with self._compilation_noted():
            self._update(data_key, update_key)
        step_end = self._now_that_all_is_done()
        times = self._state.train_state
        times['accumulated_submission_time'] += step_end - times['last_step_end_time']

        evaluates = self._is_evaluation_due(step_end)
        if evaluates:
            with self._compilation_noted():
                self._prepare_for_eval(prepare_key)
        times['is_time_remaining'] = self._within_budget()
        evaluates = evaluates and times['is_time_remaining']
        if evaluates:
            self._evaluate(eval_key)
        self._save_if_due(evaluates)
        self._progress.step(self._state, self._logger.latest)

    def _update(self, data_key: Any, update_key: Any) -> None:
        state = self._state
        batch = self._submission.data_selection(
            self._workload,
            self._queue,
            state.optimizer_state,
            state.model_params,
            state.model_state,
            self._hyperparameters,
            state.global_step,
            data_key,
        )
        extra = (
            {'train_state': MappingProxyType(state.train_state)}
            if self._wants_train_state
            else {}
        )
        try:
            updated = self._submission.update_params(
                **self._common_arguments(), batch=batch, rng=update_key, **extra
            )
        except Exception as error:
            if not _is_training_complete(error):
                raise
            self._runner_state.ended_by_submission = True
        else:
            state.optimizer_state, state.model_params, state.model_state = updated
        state.global_step += 1
        state.train_state['training_complete'] = (
            self._runner_state.ended_by_submission or self._at_step_limit()
        )

    def _common_arguments(self) -> dict[str, Any]:
        state = self._state
        return {
            'workload': self._workload,
            'current_param_container': state.model_params,
            'current_params_types': self._workload.model_params_types,
            'model_state': state.model_state,
            'hyperparameters': self._hyperparameters,
            'loss_type': self._workload.loss_type,
            'optimizer_state': state.optimizer_state,
            'eval_results': state.eval_results,
            'global_step': state.global_step,
        }

    def _is_evaluation_due(self, now: float) -> bool:
        if self._config.skip_evals:
            return False
        train_state = self._state.train_state
        if train_state['training_complete']:
            return True
        if self._config.eval_every_steps is not None:
            return self._state.global_step % self._config.eval_every_steps == 0
        since_last: float = now - train_state['last_eval_time']
        return since_last >= self._workload.eval_period_time_sec

    def _prepare_for_eval(self, key: Any) -> None:
        prepare = self._submission.prepare_for_eval
        if prepare is None:
            return
        state = self._state
        start = clock.now()
        state.optimizer_state, state.model_params, state.model_state = prepare(
            **self._common_arguments(), rng=key
        )
        end = self._now_that_all_is_done()
        state.train_state['accumulated_submission_time'] += end - start

    def _evaluate(self, key: Any) -> None:
        state, times = self._state, self._state.train_state
        start = clock.now()
        raw = self._workload.eval_model(
            self._eval_batch_size,
            state.model_params,
            state.model_state,
            key,
            self._config.data_dir,
            self._config.imagenet_v2_data_dir,
            state.global_step,
        )
        metrics = {name: plain_scalar(value) for name, value in raw.items()}
        for split, has_reached in (
            ('validation', self._workload.has_reached_validation_target),
            ('test', self._workload.has_reached_test_target),
        ):
            if has_reached(metrics):
                times[f'{split}_goal_reached'] = True
        end = clock.now()
        times['last_eval_time'] = end
        times['accumulated_eval_time'] += end - start
        metrics['score'] = times['accumulated_submission_time']
        metrics['total_duration'] = end - self._start_time
        for name in ('submission', 'eval', 'logging'):
            metrics[f'accumulated_{name}_time'] = times[f'accumulated_{name}_time']
        state.eval_results.append((state.global_step, metrics))

        self._logger.append_scalar_metrics(
            metrics, state.global_step, state.preemption_count, is_eval=True
        )
        self._write_result(stop_reason=None)
        self._progress.evaluation(state, metrics)
        times['accumulated_logging_time'] += clock.now() - end

    def _save_if_due(self, evaluated: bool) -> None:
        every = self._config.checkpoint_every_steps
        is_due = evaluated if every is None else self._state.global_step % every == 0
        if self._config.save_checkpoints and is_due:
            start = clock.now()
            self._save()
            self._state.train_state['accumulated_logging_time'] += clock.now() - start

    def _save(self) -> None:
        self._runner_state.batches_drawn = self._queue.batches_drawn
        self._runner_state.rows = self._logger.num_rows
        self._runner_state.rng = global_rng.get_state(self._framework)
        checkpoints.save_checkpoint(
            self._framework,
            self._folder,
            self._state,
            self._runner_state,
            keep_older=self._config.save_intermediate_checkpoints,
        )

    def _finish(self) -> results.TrialResult:
        # A process killed between its last checkpoint and its result is resumed
        # here with nothing else left to write.
        if not self._runner_state.is_final:
            self._logger.append_scalar_metrics(
                {'score': self._state.train_state['accumulated_submission_time']},
                self._state.global_step,
                self._state.preemption_count,
            )
            self._runner_state.is_final = True
            if self._config.save_checkpoints:
                self._save()
        return self._write_result(self._stop_reason())

    def _write_result(self, stop_reason: str | None) -> results.TrialResult:
        result = results.summarise(
            self._workload,
            self._state,
            self._runner_state,
            self._rng_seed,
            stop_reason,
        )
        results.write_result(self._folder, result)
        return result


def _is_training_complete(error: Exception) -> bool:
    # By name, since a submission may raise AlgoPerf's class or the one here.
    return any(kind.__name__ == 'TrainingCompleteError' for kind in type(error).mro())
