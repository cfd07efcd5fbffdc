"""Seconds of a step of every method, measured in turn.

A measurement is a file, `step_times.json` or, after the first, `step_times_2.json` and
so on, and is never written again. A machine is not equally fast at all times, so times
of several measurements are compared by way of NAdamW, which is in each of them.
"""

import dataclasses
import itertools
import os
import pathlib
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from tqdm import trange

from experiments import trials
from experiments.step_seconds import StepSeconds
from experiments.time_to_target.methods import METHODS, Method
from experiments.training import Training
from workloads_overrides import registry
from workloads_overrides.runner.atomic_files import read_json, write_json
from workloads_overrides.runner.submission_functions import load_submission

# Measured every time, so that the others have something to be compared with.
REFERENCE = 'nadamw'
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


def _path(folder: pathlib.Path, number: int) -> pathlib.Path:
    return folder / ('step_times.json' if number == 1 else f'step_times_{number}.json')


def _measured(folder: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yields the measurements, the oldest first."""
    for number in itertools.count(1):
        path = _path(folder, number)
        if not path.exists():
            return
        yield read_json(path)


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
      methods: Names and methods; NAdamW is timed whether it is among them or not.
      folder: Folder of the file.
      rounds: Turns that count for each method; one more warms up.

    Raises:
      ValueError: If `folder` has a measurement of another machine.
    """
    machine, earlier = trials.machine(framework), list(_measured(folder))
    for content in earlier:
        if content['machine'] != machine:
            raise ValueError(
                f'{folder} has step times of another machine or other versions '
                f'({content["machine"]}, now {machine}), which are not comparable; '
                'measure into another --output_dir, or move step_times*.json away '
                'and measure all methods.'
            )
    load = round(os.getloadavg()[0], 2)
    methods = {REFERENCE: METHODS[REFERENCE], **methods}
    runs = {
        name: _start(workload_name, framework, method)
        for name, method in methods.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in trange(rounds + 1, unit='round'):
        for name, run in runs.items():
            first = number * _STEPS
            elapsed = run.take_steps(range(first, first + _STEPS))
            if number > 0:
                seconds[name].append(round(elapsed, 6))
    content = {
        'machine': machine,
        # Of the minute before.
        'load_average': load,
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
    folder.mkdir(parents=True, exist_ok=True)
    write_json(_path(folder, len(earlier) + 1), content)


@dataclasses.dataclass(frozen=True)
class StepTimes:
    """Seconds of steps, comparable with each other.

    Attributes:
      costs: Method name to its seconds in the latest measurement that has it, times
        `scales` of it if it is there.
      scales: Method name to the seconds of NAdamW's step in the latest measurement of
        all in units of those in the method's; only methods that the latest lacks.
    """

    costs: Mapping[str, StepSeconds]
    scales: Mapping[str, float]


def load(folder: pathlib.Path) -> StepTimes:
    """Returns the seconds of all methods; there are none before `measure`.

    The ratio of a step to NAdamW's is thus always that of a measurement which has both.
    """
    costs: dict[str, StepSeconds] = {}
    scales: dict[str, float] = {}
    measured = list(_measured(folder))
    for content in measured:
        median, compilation = content['median'], content['compilation']
        scale = measured[-1]['median'][REFERENCE] / median[REFERENCE]
        for name, seconds in median.items():
            costs[name] = StepSeconds(
                scale * seconds, scale * compilation.get(name, 0.0)
            )
            scales[name] = scale
    latest = measured[-1]['median'] if measured else {}
    return StepTimes(
        costs, {name: s for name, s in scales.items() if name not in latest}
    )
