r"""How the cost of each part of a step grows with the size of model and batch.

Example::

    python -m experiments.step_time.scaling --framework=pytorch

Width, depth, batch and positions (tokens) of the offline vision transformer are swept
one at a time over a factor of at least 8, the others at their values in `_BASE`. The
MLP is four times as wide as the tokens, heads are four; tokens follow from the size of
a patch, so the first layer has fewer inputs the more of them there are. For each part
of a step the exponent of its growth is fitted by least squares on logarithms, over all
sizes, small ones, where a fixed cost for each operation counts, included. Writes
`experiments/results/step_time/scaling_<framework>.json`, and a plot beside it;
`--report` measures nothing and fits and draws what there is.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags, logging
from tqdm import tqdm

from experiments import command, trials
from experiments.step_time import breakdown, plots, tables
from experiments.step_time.results import Results
from experiments.step_time.runs import start_all
from experiments.step_time.variants import (
    APPROXIMATIONS,
    NADAMW,
    points,
    variant_name,
)
from workloads_overrides import registry
from workloads_overrides.imagenet_vit_fashion_mnist.dataset import IMAGE_SIZE
from workloads_overrides.imagenet_vit_fashion_mnist.workload import ModelSize
from workloads_overrides.runner import frameworks

_WORKLOAD = 'imagenet_vit_fashion_mnist'
_HEADS = 4


@dataclasses.dataclass(frozen=True)
class Size:
    """What can be swept.

    Attributes:
      width: Size of a token.
      depth: Number of blocks.
      batch: Examples in a batch.
      positions: Number of tokens, the square of a divisor of 28.
    """

    width: int = 64
    depth: int = 2
    batch: int = 32
    positions: int = 49

    def workload(self, framework_name: str) -> Any:
        """Returns the offline vision transformer in this size."""
        patches = round(self.positions**0.5)
        model_size = ModelSize(
            self.width, self.depth, 4 * self.width, _HEADS, IMAGE_SIZE // patches
        )
        base = registry.workload_class(_WORKLOAD, framework_name)
        return type('SizedWorkload', (base,), {'model_size': model_size})()


SWEEPS: dict[str, tuple[int, ...]] = {
    'width': (32, 64, 128, 256),
    'depth': (1, 2, 4, 8),
    'batch': (16, 32, 64, 128),
    'positions': (16, 49, 196),
}


def part_seconds(framework_name: str, size: Size, rounds: int) -> dict[str, float]:
    """Returns the seconds of each part at one size, by name.

    Args:
      framework_name: `'pytorch'` or `'jax'`.
      size: The size.
      rounds: How often each part is timed.
    """
    names = {a: variant_name(a, 'monte_carlo') for a in APPROXIMATIONS}
    wanted = {name: points()[name] for name in (NADAMW, *names.values())}
    runs = start_all(size.workload(framework_name), framework_name, wanted, size.batch)
    if framework_name == 'pytorch':
        # The parts are those of real steps; in JAX they need none.
        for run in runs.values():
            run.warm_up()
    measured = breakdown.parts(framework_name, runs, rounds, with_rest=False)
    by_approximation = {a: measured[name]['statistics'] for a, name in names.items()}
    any_of_them = by_approximation[APPROXIMATIONS[0]]
    common = {
        part: any_of_them[part]
        for part in ('extra backward', 'inverses', 'preconditioning')
    }
    nadamw = measured[NADAMW]['plain']
    return {
        'forward and backward': nadamw['forward and backward'],
        'first-order rule': nadamw['first-order rule'],
        **common,
        **{f'factors, {a}': parts['factors'] for a, parts in by_approximation.items()},
    }


def fitted_exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float | None:
    """Fits seconds = c size**exponent by least squares on logarithms.

    Returns:
      The exponent; None if a time is not positive, as a difference of two can be.
    """
    if min(seconds) <= 0:
        return None
    slope, _ = np.polyfit(np.log(sizes), np.log(seconds), 1)
    return round(float(slope), 3)


def _part_name(swept: str, value: int) -> str:
    return f'{swept} {value}'


def measure_sweeps(
    framework_name: str,
    sweeps: Mapping[str, Sequence[int]],
    rounds: int,
    results: Results,
) -> None:
    """Times all sizes that the results lack."""
    sizes = [(swept, value) for swept, values in sweeps.items() for value in values]
    for swept, value in tqdm(sizes, unit='size'):
        size = dataclasses.replace(Size(), **{swept: value})

        def measure(size: Size = size) -> dict[str, float]:
            parts = part_seconds(framework_name, size, rounds)
            return {part: round(value, 7) for part, value in parts.items()}

        results.ensure(_part_name(swept, value), measure)


def measured_sweeps(
    sweeps: Mapping[str, Sequence[int]], results: Results
) -> dict[str, dict[str, list[float]]]:
    """Collects the seconds of all sizes.

    Returns:
      What is swept to part to the seconds at each size.

    Raises:
      ValueError: If the results lack a size.
    """
    seconds: dict[str, dict[str, list[float]]] = {}
    for swept, values in sweeps.items():
        for name in [_part_name(swept, value) for value in values]:
            if name not in results.parts:
                raise ValueError(
                    f'{results.path} lacks {name!r}; measure it, without --report.'
                )
            for part, part_time in results.parts[name].items():
                seconds.setdefault(swept, {}).setdefault(part, []).append(part_time)
    return seconds


def report(results: Results, framework_name: str) -> str:
    """Fits the exponents and draws the plot; returns the table.

    Raises:
      ValueError: If the results lack a size.
    """
    seconds = measured_sweeps(SWEEPS, results)
    exponents = {
        swept: {
            part: fitted_exponent(SWEEPS[swept], of_part)
            for part, of_part in parts.items()
        }
        for swept, parts in seconds.items()
    }
    plots.plot_scaling(
        seconds,
        SWEEPS,
        exponents,
        f'Offline vision transformer, {framework_name}: parts of a step',
        results.path.with_suffix('.png'),
    )
    return tables.of_exponents(exponents)


def _define_flags() -> None:
    flags.DEFINE_enum(
        'framework', 'pytorch', trials.FRAMEWORKS, 'Framework to train in.'
    )
    flags.DEFINE_integer('rounds', 15, 'How often each part is timed.')
    flags.DEFINE_integer(
        'num_threads', None, "Threads; the framework's choice if not given."
    )
    flags.DEFINE_string(
        'output_dir', 'experiments/results/step_time', 'Where results go.'
    )
    flags.DEFINE_bool('report', False, 'Print the table and draw the plot only.')


def main() -> None:
    """Sweeps, fits, prints the table and draws the plot."""
    # The submission says for each run who trains which parameter.
    logging.set_verbosity(logging.WARNING)
    values: Any = flags.FLAGS
    framework_name = values.framework
    path = pathlib.Path(values.output_dir) / f'scaling_{framework_name}.json'
    if values.report:
        results = Results.load(path)
    else:
        if values.num_threads is not None:
            frameworks.load(framework_name).set_num_threads(values.num_threads)
        conditions = {
            'machine': trials.machine(framework_name),
            'rounds': values.rounds,
        }
        results = Results.open(path, conditions)
        measure_sweeps(framework_name, SWEEPS, values.rounds, results)
    print(report(results, framework_name))
    print(f'Written to {path}')


if __name__ == '__main__':
    _define_flags()
    command.run(main)
