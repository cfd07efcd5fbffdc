"""Seconds of a step of every method, measured in turn."""

import json
import pathlib
import statistics
from collections.abc import Mapping
from typing import Any

from tqdm import trange

from experiments import trials
from experiments.step_seconds import StepSeconds
from experiments.time_to_target.methods import Method
from experiments.training import Training
from workloads_overrides import registry
from workloads_overrides.runner.submission_functions import load_submission

# Steps in a turn: one interval of all second-order methods.
_STEPS = 10


def _start(workload_name: str, framework: str, method: Method) -> Training:
    submission = load_submission(trials.SUBMISSION_PATHS[method.submission][framework])
    return Training.start(
        registry.load_workload(workload_name, framework),
        framework,
        submission,
        method.points[0],
        submission.batch_size(workload_name),
    )


def _path(folder: pathlib.Path) -> pathlib.Path:
    return folder / 'step_times.json'


def measure(
    workload_name: str,
    framework: str,
    methods: Mapping[str, Method],
    folder: pathlib.Path,
    rounds: int,
) -> None:
    """Times the methods in turn, each at its first point, and writes the seconds.

    Args:
      workload_name: Name of the workload.
      framework: Framework to train in.
      methods: Names and methods.
      folder: Folder of the file.
      rounds: Turns that count for each method; one more warms up.
    """
    runs = {
        name: _start(workload_name, framework, method)
        for name, method in methods.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in trange(rounds + 1, unit='round'):
        for name, run in runs.items():
            first = number * _STEPS
            elapsed = [run.take_step(step) for step in range(first, first + _STEPS)]
            if number > 0:
                seconds[name].append(round(statistics.mean(elapsed), 6))
    content: dict[str, Any] = {
        'machine': trials.machine(framework),
        'seconds': seconds,
        'median': {
            name: round(statistics.median(values), 6)
            for name, values in seconds.items()
        },
        'compilation': {
            name: round(sum(run.compilation.values()), 3)
            for name, run in runs.items()
            if run.compilation
        },
    }
    _path(folder).write_text(json.dumps(content, indent=1) + '\n')


def load(folder: pathlib.Path) -> dict[str, StepSeconds]:
    """Returns method name to the seconds of its steps; empty before `measure`."""
    path = _path(folder)
    if not path.exists():
        return {}
    content = json.loads(path.read_text())
    return {
        name: StepSeconds(seconds, content['compilation'].get(name, 0.0))
        for name, seconds in content['median'].items()
    }
