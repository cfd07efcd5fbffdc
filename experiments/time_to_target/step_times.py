"""Seconds of a step of every method, measured in turn."""

import json
import pathlib
import statistics
import time
from collections.abc import Mapping
from typing import Any

from tqdm import trange

from experiments import trials
from experiments.time_to_target.methods import Method
from workloads_overrides import registry
from workloads_overrides.runner import frameworks
from workloads_overrides.runner.search_space import as_hyperparameters
from workloads_overrides.runner.submission_functions import load_submission

# Steps in a turn: one interval of all second-order methods.
_STEPS = 10


class _Training:
    """A method's training, a few steps at a time."""

    def __init__(self, workload_name: str, framework: str, method: Method) -> None:
        self._framework = frameworks.load(framework)
        self._submission = load_submission(
            trials.SUBMISSION_PATHS[method.submission][framework]
        )
        self._workload = workload = registry.load_workload(workload_name, framework)
        self._hyperparameters = as_hyperparameters(dict(method.points[0]))
        self._key = key = self._framework.prng_key(0)
        batch_size = self._submission.batch_size(workload_name)
        self._queue = workload._build_input_queue(key, 'train', None, batch_size)
        params, model_state = workload.init_model_fn(key)
        optimizer_state = self._submission.init_optimizer_state(
            workload, params, model_state, self._hyperparameters, key
        )
        self._state = (optimizer_state, params, model_state)
        self._step = 0

    def seconds(self) -> float:
        """Takes a turn; returns the seconds of a step, without compilation."""
        total = 0.0
        for _ in range(_STEPS):
            batch = next(self._queue)
            optimizer_state, params, model_state = self._state
            compiled = self._framework.compilation_seconds()
            start = time.perf_counter()
            self._state = self._submission.update_params(
                workload=self._workload,
                current_param_container=params,
                current_params_types=self._workload.model_params_types,
                model_state=model_state,
                hyperparameters=self._hyperparameters,
                batch=batch,
                loss_type=self._workload.loss_type,
                optimizer_state=optimizer_state,
                eval_results=[],
                global_step=self._step,
                rng=self._framework.fold_in(self._key, self._step),
            )
            self._framework.wait_for(*self._state[1:])
            total += time.perf_counter() - start
            total -= self._framework.compilation_seconds() - compiled
            self._step += 1
        return total / _STEPS


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
        name: _Training(workload_name, framework, method)
        for name, method in methods.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in trange(rounds + 1, unit='round'):
        for name, run in runs.items():
            elapsed = run.seconds()
            if number > 0:
                seconds[name].append(round(elapsed, 6))
    content: dict[str, Any] = {
        'machine': trials.machine(framework),
        'seconds': seconds,
        'median': {
            name: round(statistics.median(values), 6)
            for name, values in seconds.items()
        },
    }
    _path(folder).write_text(json.dumps(content, indent=1) + '\n')


def load(folder: pathlib.Path) -> dict[str, float]:
    """Returns method name to median seconds of a step; empty before `measure`."""
    path = _path(folder)
    if not path.exists():
        return {}
    median: dict[str, float] = json.loads(path.read_text())['median']
    return median
