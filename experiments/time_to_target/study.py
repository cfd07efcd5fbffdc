"""Trains the trials of a study, several at a time.

A study is a method with a seed. Of its trials the one that reaches the target first
counts, so a trial that is still under way when as many steps have been taken as the
best so far needed cannot count any more and ends there. That changes no score.
"""

import collections
import concurrent.futures
import dataclasses
import math
import pathlib
from collections.abc import Iterable, Sequence

from tqdm import tqdm

from experiments import trials
from experiments.processes import process_pool
from experiments.time_to_target.methods import Method
from experiments.trials import Record, Trial


@dataclasses.dataclass
class Study:
    """The trials of a method with a seed.

    Attributes:
      pending: Trials to train, in this order.
      best_steps: Fewest steps to the target so far; None before any trial got there.
    """

    pending: collections.deque[Trial]
    best_steps: int | None = None

    def note(self, record: Record, target: float) -> None:
        """Takes in what a trial did."""
        steps = record.steps_to(target)
        if steps is not None:
            self.best_steps = min(steps, self.best_steps or steps)


def make_studies(
    methods: Iterable[tuple[str, Method]],
    workload: str,
    framework: str,
    seeds: Sequence[int],
    records: Sequence[Record],
    target: float,
) -> list[Study]:
    """Returns the studies, without the trials that have been recorded.

    Points that were fast with other seeds come first: the sooner a study has a good
    trial, the shorter are the others.

    Args:
      methods: Names and methods.
      workload: Name of the workload.
      framework: Framework to train in.
      seeds: Seeds, each a study of every method.
      records: What has been recorded already.
      target: The validation target.
    """
    done = {record.trial.key: record for record in records}
    studies = []
    for seed in seeds:
        for name, method in methods:
            all_trials = [
                Trial(name, workload, framework, point, seed, method.submission)
                for point in method.points
            ]
            study = Study(collections.deque())
            all_trials.sort(key=lambda trial: _fewest_steps(trial, records, target))
            for trial in all_trials:
                if trial.key in done:
                    study.note(done[trial.key], target)
                else:
                    study.pending.append(trial)
            studies.append(study)
    return studies


def _fewest_steps(trial: Trial, records: Sequence[Record], target: float) -> float:
    """Returns the fewest steps that a trial's point needed with any seed."""
    steps = [
        record.steps_to(target)
        for record in records
        if record.trial.method == trial.method
        and record.trial.hyperparameters == trial.hyperparameters
    ]
    return min((s for s in steps if s is not None), default=math.inf)


def run_studies(
    studies: Sequence[Study],
    path: pathlib.Path,
    folder: pathlib.Path,
    *,
    target: float,
    eval_every_steps: int,
    processes: int,
    num_threads: int,
    save_checkpoints: bool = True,
) -> None:
    """Trains all pending trials; each record is appended to `path` as a trial ends.

    A run that is killed loses nothing: trials under way go on from their checkpoints.
    Without these they begin anew.

    Args:
      studies: The studies; the trials of each train one after the other.
      path: File of the records.
      folder: Where the runner's files go.
      target: The validation target.
      eval_every_steps: Steps between evaluations.
      processes: Trials at once.
      num_threads: Threads of each.
      save_checkpoints: Whether to save any, at each evaluation.
    """
    waiting = collections.deque(study for study in studies if study.pending)
    total = sum(len(study.pending) for study in waiting)
    running: dict[concurrent.futures.Future[Record], Study] = {}
    with (
        process_pool(processes) as pool,
        tqdm(total=total, unit='trial') as progress,
    ):

        def start(study: Study) -> None:
            trial = study.pending.popleft()
            future = pool.submit(
                trials.run,
                trial,
                trials.folder_of(trial, folder),
                eval_every_steps=eval_every_steps,
                num_threads=num_threads,
                stop_at_targets=True,
                validation_only=True,
                step_limit=study.best_steps,
                resume=True,
                save_checkpoints=save_checkpoints,
            )
            running[future] = study

        while waiting or running:
            while waiting and len(running) < processes:
                start(waiting.popleft())
            done, _ = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                study, record = running.pop(future), future.result()
                trials.append_record(path, record)
                study.note(record, target)
                progress.update()
                progress.set_postfix_str(
                    f'{record.trial.method}, seed {record.trial.seed}: '
                    f'{record.steps_to(target) or "-"} steps'
                )
                if study.pending:
                    start(study)
