r"""Measures the time of a K-FAC step in units of a NAdamW step.

Example::

    python -m experiments.step_time --workload=ogbg_chembl --framework=jax

All variants train in turn within one run: in every round each takes as many steps as
its statistics interval, so that a round holds exactly one statistics step. The ratio
is taken round by round against NAdamW's time in the same round, which cancels the
drift of a shared machine. Prints the median over the rounds with the quartiles, and
writes them with all rounds to `runs/step_time/<workload>_<framework>.json`. What JAX
compiles is counted apart: NAdamW's step at step 0; of K-FAC the statistics step at 0
and the plain step at 2.
"""

import dataclasses
import importlib
import itertools
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import app, flags
from tqdm import trange

from experiments import trials
from submission.settings import get_batch_size
from workloads_overrides import registry
from workloads_overrides.runner import frameworks
from workloads_overrides.runner.frameworks import Framework
from workloads_overrides.runner.search_space import as_hyperparameters

_NADAMW = {
    'approximation': 'none',
    'learning_rate': 1e-3,
    'one_minus_beta1': 0.1,
    'beta2': 0.99,
    'weight_decay': 0.01,
    'warmup_factor': 0.05,
}


@dataclasses.dataclass
class Run:
    """A training run under way, a few steps at a time."""

    framework: Framework
    submission: Any
    hyperparameters: Mapping[str, Any]
    workload: Any
    state: tuple[Any, Any, Any]
    queue: Any
    key: Any
    step: int = 0
    compilation: dict[int, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def start(
        cls, workload_name: str, framework_name: str, hyperparameters: Mapping[str, Any]
    ) -> 'Run':
        """Initialises workload and optimiser."""
        framework = frameworks.load(framework_name)
        submission = importlib.import_module(f'submission.{framework_name}_submission')
        workload = registry.load_workload(workload_name, framework_name)
        key = framework.prng_key(0)
        try:
            batch_size = get_batch_size(workload_name)
        except ValueError:
            batch_size = get_batch_size(registry.base_name(workload_name))
        queue = workload._build_input_queue(key, 'train', None, batch_size)
        params, model_state = workload.init_model_fn(key)
        optimizer_state = submission.init_optimizer_state(
            workload,
            params,
            model_state,
            as_hyperparameters(dict(hyperparameters)),
            key,
        )
        state = (optimizer_state, params, model_state)
        return cls(framework, submission, hyperparameters, workload, state, queue, key)

    def seconds_for(self, steps: int) -> float:
        """Takes steps and returns their seconds, without batches and compilation."""
        total = 0.0
        for _ in range(steps):
            batch = next(self.queue)
            key = self.framework.fold_in(self.key, self.step)
            optimizer_state, params, model_state = self.state
            compiled_before = self.framework.compilation_seconds()
            start = time.perf_counter()
            self.state = self.submission.update_params(
                workload=self.workload,
                current_param_container=params,
                current_params_types=self.workload.model_params_types,
                model_state=model_state,
                hyperparameters=None,
                batch=batch,
                loss_type=self.workload.loss_type,
                optimizer_state=optimizer_state,
                eval_results=[],
                global_step=self.step,
                rng=key,
            )
            self.framework.wait_for(*self.state[1:])
            compiled = self.framework.compilation_seconds() - compiled_before
            if compiled > 0:
                self.compilation[self.step] = round(compiled, 3)
            total += time.perf_counter() - start - compiled
            self.step += 1
        return total


def variants(intervals: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Returns the K-FAC variants to time, by name."""
    grid = itertools.product(
        ('reduce', 'expand'), ('empirical', 'monte_carlo'), intervals
    )
    return {
        f'{approximation}, {fisher_type}, every {interval}': {
            **_NADAMW,
            'approximation': approximation,
            'fisher_type': fisher_type,
            'statistics_interval': interval,
            'inverse_interval': interval,
        }
        for approximation, fisher_type, interval in grid
    }


def measure(
    workload_name: str,
    framework_name: str,
    points: Mapping[str, Mapping[str, Any]],
    rounds: int,
) -> dict[str, dict[str, Any]]:
    """Times variants in turn.

    Args:
      workload_name: Name of the workload.
      framework_name: `'pytorch'` or `'jax'`.
      points: Variant name to hyperparameters.
      rounds: Rounds that count.

    Returns:
      Variant name to median milliseconds a step, median, quartiles and all of the
      ratios to NAdamW, and seconds of compilation by step.
    """
    runs = {
        name: Run.start(workload_name, framework_name, point)
        for name, point in {'nadamw': _NADAMW, **points}.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in trange(rounds + 1, unit='round'):
        for name, run in runs.items():
            steps = run.hyperparameters.get('statistics_interval', 10)
            time_per_step = run.seconds_for(steps) / steps
            # The first round holds the extra statistics step that every run begins
            # with, and whatever else happens once.
            if number > 0:
                seconds[name].append(time_per_step)
    reference = np.array(seconds['nadamw'])
    results = {}
    for name, values in seconds.items():
        ratios = np.array(values) / reference
        results[name] = {
            'milliseconds': round(1e3 * float(np.median(values)), 2),
            'ratio': round(float(np.median(ratios)), 3),
            'quartiles': np.quantile(ratios, [0.25, 0.75]).round(3).tolist(),
            'ratios': ratios.round(3).tolist(),
            'compilation_seconds': runs[name].compilation,
        }
    return results


def define_flags() -> None:
    """Defines the flags; several modules here have flags of the same names."""
    flags.DEFINE_string('workload', 'ogbg_chembl', 'Name of the workload.')
    flags.DEFINE_enum(
        'framework', 'pytorch', ['pytorch', 'jax'], 'Framework to train in.'
    )
    flags.DEFINE_list('intervals', ['10'], 'Statistics intervals.')
    flags.DEFINE_integer('rounds', 12, 'Rounds that count; one more warms up.')
    flags.DEFINE_integer(
        'num_threads', None, "Threads; the framework's choice if not given."
    )
    flags.DEFINE_string('output_dir', 'runs/step_time', 'Where results go.')


def main(argv: Sequence[str]) -> None:
    """Times the variants, prints a table and writes the file."""
    del argv
    framework_name = flags.FLAGS.framework
    if flags.FLAGS.num_threads is not None:
        frameworks.load(framework_name).set_num_threads(flags.FLAGS.num_threads)
    points = variants([int(interval) for interval in flags.FLAGS.intervals])
    results = measure(flags.FLAGS.workload, framework_name, points, flags.FLAGS.rounds)
    print(f'{"variant":34} | ms a step | ratio to NAdamW (quartiles) | compiling, s')
    for name, values in results.items():
        low, high = values['quartiles']
        print(
            f'{name:34} | {values["milliseconds"]:9.1f} | {values["ratio"]:.3f} '
            f'({low:.3f} to {high:.3f})       | '
            f'{", ".join(str(t) for t in values["compilation_seconds"].values())}'
        )
    folder = pathlib.Path(flags.FLAGS.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{flags.FLAGS.workload}_{framework_name}.json'
    machine = trials.machine(framework_name)
    path.write_text(json.dumps({'machine': machine, 'variants': results}, indent=1))
    print(f'Written to {path}')


if __name__ == '__main__':
    define_flags()
    app.run(main)
