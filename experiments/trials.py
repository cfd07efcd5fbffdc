"""Trains single trials through the built-in runner and keeps what they did."""

import concurrent.futures
import csv
import dataclasses
import hashlib
import json
import os
import pathlib
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from experiments.processes import process_pool
from workloads_overrides import registry
from workloads_overrides.runner import frameworks
from workloads_overrides.runner.atomic_files import read_json
from workloads_overrides.runner.checkpoints import checkpoint_paths
from workloads_overrides.runner.config import StudyConfig
from workloads_overrides.runner.study import run_study

# Submission by name and framework.
SUBMISSION_PATHS = {
    'kfac': {
        'jax': 'submission/jax_submission.py',
        'pytorch': 'submission/pytorch_submission.py',
    },
    'rivals': {'pytorch': 'experiments/rivals/pytorch_submission.py'},
}
FRAMEWORKS = tuple(SUBMISSION_PATHS['kfac'])
# What /proc/cpuinfo says of an x86 processor's generation.
_GENERATION = ('cpu family', 'model')


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training run.

    Attributes:
      method: Name under which the run is reported.
      workload: Name of the workload.
      framework: Framework of submission and workload.
      hyperparameters: A point of a search space.
      seed: Seed of initialisation, data order, dropout and sampled labels.
      submission: Which submission, a key of `SUBMISSION_PATHS`.
    """

    method: str
    workload: str
    framework: str
    hyperparameters: Mapping[str, Any]
    seed: int
    submission: str = 'kfac'

    @property
    def key(self) -> str:
        """Identifies the trial among recorded ones."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


@dataclasses.dataclass(frozen=True)
class Record:
    """What a trial did.

    Attributes:
      trial: The trial.
      steps: Steps at which it was evaluated.
      seconds: Submission time at each evaluation (training only).
      validation: The target metric on the validation split at each evaluation.
      test: The same on the test split; empty if that was not evaluated.
      seconds_per_step: Submission time for each step, without compilation.
      machine: Where it ran.
      compilation: How much of the seconds was compilation, up to each evaluation;
        empty where nothing is compiled.
    """

    trial: Trial
    steps: list[int]
    seconds: list[float]
    validation: list[float]
    test: list[float]
    seconds_per_step: float
    machine: Mapping[str, Any]
    compilation: list[float] = dataclasses.field(default_factory=list)

    def first_above(self, target: float) -> int | None:
        """Index of the first evaluation above a validation target, or None."""
        for index, value in enumerate(self.validation):
            if value > target:
                return index
        return None

    def steps_to(self, target: float) -> int | None:
        """Steps to the first evaluation above a validation target, or None."""
        index = self.first_above(target)
        return None if index is None else self.steps[index]

    def seconds_to(self, target: float) -> float | None:
        """Submission time at the first evaluation above a target, or None."""
        index = self.first_above(target)
        return None if index is None else self.seconds[index]

    def training_seconds_to(self, target: float) -> float | None:
        """The same without the seconds that went into compilation."""
        index = self.first_above(target)
        if index is None or not self.compilation:
            return self.seconds_to(target)
        return round(self.seconds[index] - self.compilation[index], 3)

    @property
    def compilation_seconds(self) -> float:
        """All the seconds that went into compilation."""
        return self.compilation[-1] if self.compilation else 0.0


def schedule_steps(trial: Trial) -> int:
    """Returns the length of the trial's learning-rate schedule in steps."""
    workload = registry.load_workload(trial.workload, trial.framework)
    return round(trial.hyperparameters['step_hint_factor'] * workload.step_hint)


def run(
    trial: Trial,
    folder: pathlib.Path,
    *,
    eval_every_steps: int,
    num_threads: int | None,
    stop_at_targets: bool = False,
    validation_only: bool = False,
    step_limit: int | None = None,
    resume: bool,
    save_checkpoints: bool = True,
) -> Record:
    """Trains a trial to the end of its schedule.

    Args:
      trial: What to train.
      folder: Folder of the trial's files.
      eval_every_steps: Steps between evaluations.
      num_threads: Threads within an operation; None leaves the framework's choice.
      stop_at_targets: Whether to stop once both targets are reached.
      validation_only: Whether to evaluate the validation split alone, whose target
        is then the only one.
      step_limit: Steps after which to stop, should the schedule be longer.
      resume: Goes on with the files in `folder`; otherwise they are deleted.
      save_checkpoints: Whether there will be files to go on with.

    Raises:
      ValueError: If the files in `folder` are of other hyperparameters.
    """
    steps = schedule_steps(trial)
    folder.mkdir(parents=True, exist_ok=True)
    trial_folder = folder / f'{trial.workload}_{trial.framework}' / 'trial_1'
    if resume:
        _check_hyperparameters(trial, trial_folder)
    search_space = folder / 'search_space.json'
    search_space.write_text(json.dumps([dict(trial.hyperparameters)], indent=2) + '\n')
    (result,) = run_study(
        StudyConfig(
            workload=trial.workload,
            framework=trial.framework,
            submission_path=SUBMISSION_PATHS[trial.submission][trial.framework],
            experiment_dir=str(folder.parent),
            experiment_name=folder.name,
            tuning_search_space=str(search_space),
            num_tuning_trials=1,
            hparam_start_index=0,
            hparam_end_index=1,
            rng_seed=trial.seed,
            max_global_steps=steps if step_limit is None else min(steps, step_limit),
            eval_every_steps=eval_every_steps,
            num_threads=num_threads,
            save_checkpoints=save_checkpoints,
            save_intermediate_checkpoints=False,
            stop_at_targets=stop_at_targets,
            validation_only=validation_only,
            # Steps count here; how long they take depends on the machine.
            limit_time=False,
            resume_last_run=resume,
            overwrite=not resume,
        )
    )
    with (trial_folder / 'eval_measurements.csv').open() as file:
        rows = list(csv.DictReader(file))

    def column(name: str, digits: int) -> list[float]:
        return [round(float(row[name]), digits) for row in rows]

    metric = result.target_metric_name
    assert result.seconds_per_step is not None
    evaluated_at = [int(row['global_step']) for row in rows]
    return Record(
        trial=trial,
        steps=evaluated_at,
        seconds=column('accumulated_submission_time', 3),
        validation=column(f'validation/{metric}', 5),
        test=[] if validation_only else column(f'test/{metric}', 5),
        seconds_per_step=round(result.seconds_per_step, 5),
        machine=machine(trial.framework),
        compilation=compilation_until(evaluated_at, result.compilations),
    )


def _check_hyperparameters(trial: Trial, trial_folder: pathlib.Path) -> None:
    """Makes sure that what was trained is not recorded as what is asked for."""
    path = trial_folder / 'hparams.json'
    if not path.exists() or not checkpoint_paths(trial_folder):
        return
    trained = read_json(path)
    if trained != dict(trial.hyperparameters):
        raise ValueError(
            f'{trial_folder} holds a run of other hyperparameters, {trained}; delete '
            f'that folder to train {trial.method} anew.'
        )


def compilation_until(
    steps: Sequence[int], compilations: Sequence[tuple[int, float]]
) -> list[float]:
    """Adds up the seconds of compilation up to each of some steps.

    Args:
      steps: Steps taken at each evaluation.
      compilations: Steps taken and seconds of each compilation.

    Returns:
      Seconds for each of `steps`; empty if nothing was compiled.
    """
    if not compilations:
        return []
    return [
        round(sum(seconds for at, seconds in compilations if at <= step), 3)
        for step in steps
    ]


def machine(framework: str = 'pytorch') -> dict[str, Any]:
    """Says where and with what a measurement in a framework was made."""
    used = frameworks.load(framework)
    return {
        'processor': _processor_name(),
        'cores': os.cpu_count(),
        'python': platform.python_version(),
        **used.versions(),
        **used.device_facts(),
    }


def _processor_name(cpuinfo: pathlib.Path = pathlib.Path('/proc/cpuinfo')) -> str:
    entries: dict[str, str] = {}
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(':')
            entries.setdefault(key.strip(), value.strip())
    if 'model name' not in entries:
        return platform.processor() or platform.machine()
    name = entries['model name']
    # Virtual machines name generations alike that differ in speed and instructions.
    details = [f'{key} {entries[key]}' for key in _GENERATION if key in entries]
    return f'{name} ({", ".join(details)})' if details else name


def load_records(path: pathlib.Path) -> list[Record]:
    """Reads records, one in a line; none if there is no such file."""
    if not path.exists():
        return []
    records = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            values = json.loads(line)
            values['trial'] = Trial(**values['trial'])
            records.append(Record(**values))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f'{path}, line {number}, is not a record of a trial ({error}). '
                'Delete the line to train that trial again.'
            ) from error
    return records


def append_record(path: pathlib.Path, record: Record) -> None:
    """Appends a record to a file, which is made if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a') as file:
        file.write(json.dumps(dataclasses.asdict(record)) + '\n')


def run_all(
    trials: Sequence[Trial],
    path: pathlib.Path,
    folder: pathlib.Path,
    *,
    eval_every_steps: int,
    processes: int,
) -> list[Record]:
    """Trains the trials that `path` has no record of, several at a time.

    Args:
      trials: What to train, to the end of the schedule of each.
      path: File of the records.
      folder: Where the runner's files go.
      eval_every_steps: Steps between evaluations.
      processes: How many trials train at once, each on one thread.

    Returns:
      The records of all the trials, in their order.
    """
    done = {record.trial.key: record for record in load_records(path)}
    trained = train(
        [trial for trial in trials if trial.key not in done],
        path,
        folder,
        eval_every_steps=eval_every_steps,
        processes=processes,
    )
    done.update((record.trial.key, record) for record in trained)
    return [done[trial.key] for trial in trials]


def train(
    trials: Sequence[Trial],
    path: pathlib.Path,
    folder: pathlib.Path,
    *,
    eval_every_steps: int,
    processes: int,
    num_threads: int = 1,
    stop_at_targets: bool = False,
    validation_only: bool = False,
    describe: Callable[[Record], str] = lambda record: record.trial.method,
) -> list[Record]:
    """Trains trials, several at a time, those that are equal once.

    Each record is appended to `path` as its trial ends, so a run that is killed
    loses at most the trials under way, and those resume from their checkpoints.

    Args:
      trials: What to train.
      path: File of the records.
      folder: Where the runner's files go.
      eval_every_steps: Steps between evaluations.
      processes: How many trials train at once.
      num_threads: Threads of each.
      stop_at_targets: Whether a trial ends once it has reached its targets, or else
        at the end of its schedule.
      validation_only: Whether to evaluate the validation split alone.
      describe: What the progress bar says of the latest record.

    Returns:
      The records in the order in which they came.
    """
    different = {trial.key: trial for trial in trials}.values()
    records = []
    with (
        process_pool(processes) as pool,
        tqdm(total=len(different), unit='trial') as progress,
    ):
        futures = [
            pool.submit(
                run,
                trial,
                folder_of(trial, folder),
                eval_every_steps=eval_every_steps,
                num_threads=num_threads,
                stop_at_targets=stop_at_targets,
                validation_only=validation_only,
                resume=True,
            )
            for trial in different
        ]
        try:
            for future in concurrent.futures.as_completed(futures):
                record = future.result()
                append_record(path, record)
                records.append(record)
                progress.update()
                progress.set_postfix_str(describe(record))
        finally:
            # After an error nobody would record what is still waiting.
            for future in futures:
                future.cancel()
    return records


def folder_of(trial: Trial, folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder within `folder` for a trial's files, the same every time."""
    digest = hashlib.sha256(trial.key.encode()).hexdigest()[:16]
    return folder / f'{trial.method}-{digest}'
