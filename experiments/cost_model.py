r"""What a K-FAC step costs, on paper: operations, bytes, communication, memory.

Example::

    python -m experiments.cost_model --overhead=0.05
    python -m experiments.cost_model --measure --workload=ogbg_chembl

The first prints, for AlgoPerf's `ogbg` and `imagenet_vit` on 1 and 8 GPUs, the cost of
every part of a step, the overhead over NAdamW at each interval and approximation, the
best intervals within an overhead, and the memory of factors and inverses. The second
calibrates this machine's rates, and compares predicted with measured times of the
parts at the sizes of an offline workload. Both write JSON.

A part is a list of operations, and an operation takes as long as its arithmetic or
its memory traffic, whichever is longer, plus what it sends and a fixed time for each
kernel. Nothing overlaps, so the times on several GPUs are upper bounds.
"""

import dataclasses
import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags

from experiments import cost_measurements, text_tables, trials
from experiments.cost_models import MODELS, Model
from experiments.cost_operations import A100, FLOAT_BYTES, Device
from experiments.cost_parts import StepCost

INTERVALS = (1, 10, 50)
APPROXIMATIONS = ('reduce', 'expand')
FISHER_TYPES = ('empirical', 'monte_carlo')


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Seconds of the kinds of work in a step.

    Attributes:
      first_order: A step of NAdamW.
      every_step: What K-FAC adds to every step.
      statistics: What an update of the statistics adds.
      inverses: What an update of the inverses adds.
    """

    first_order: float
    every_step: float
    statistics: float
    inverses: float

    def overhead(self, statistics_interval: int, inverse_interval: int) -> float:
        """Returns the average K-FAC step in units of NAdamW's, less 1."""
        extra = (
            self.every_step
            + self.statistics / statistics_interval
            + self.inverses / inverse_interval
        )
        return extra / self.first_order

    def best_intervals(self, overhead: float) -> tuple[int, int] | None:
        """Returns the shortest intervals that keep to an overhead.

        They minimise the sum of both intervals, twice the mean age of the curvature
        that a step uses. New inverses of old statistics are of no use, so the
        statistics are never renewed less often.

        Args:
          overhead: Largest extra time of the average step, in NAdamW steps.

        Returns:
          Statistics and inverse interval; None if every step adds too much already.
        """
        budget = overhead * self.first_order - self.every_step
        if budget <= 0:
            return None
        roots = math.sqrt(self.statistics), math.sqrt(self.inverses)
        if roots[1] >= roots[0]:
            lengths = tuple(root * sum(roots) / budget for root in roots)
        else:
            lengths = ((self.statistics + self.inverses) / budget,) * 2
        statistics, inverse = (max(1, math.ceil(length)) for length in lengths)
        return statistics, inverse


def step_time(
    cost: StepCost, device: Device, approximation: str, fisher_type: str
) -> StepTime:
    """Returns the times of a variant of K-FAC."""
    seconds = {
        name: device.seconds(part) for name, part in cost.parts(approximation).items()
    }
    statistics = seconds['factors'] + seconds['factor all-reduce']
    if fisher_type == 'monte_carlo':
        statistics += seconds['extra backward']
    return StepTime(
        first_order=sum(
            seconds[name]
            for name in (
                'forward',
                'backward',
                'gradient all-reduce',
                'first-order rule',
            )
        ),
        every_step=seconds['preconditioning'],
        statistics=statistics,
        inverses=seconds['inverses'] + seconds['broadcast'],
    )


def memory(model: Model) -> dict[str, float]:
    """Returns MiB of parameters and state on each device."""
    factors = FLOAT_BYTES * sum(dim**2 for dim in model.factor_dims) / 2**20
    parameters = FLOAT_BYTES * model.parameters / 2**20
    return {
        'parameters': parameters,
        'NAdamW moments': 2 * parameters,
        'factors': factors,
        'inverses': factors,
    }


def report(
    model: Model, devices: int, device: Device, overhead: float
) -> dict[str, Any]:
    """Returns all that is known of a model on a number of devices.

    Args:
      model: The model.
      devices: Number of devices.
      device: Each of them.
      overhead: For which to find the best intervals.
    """
    cost = StepCost(model, devices)
    parts = {}
    for approximation in APPROXIMATIONS:
        for name, part in cost.parts(approximation).items():
            key = f'{name}, {approximation}' if name == 'factors' else name
            parts[key] = {
                'flops': sum(
                    o.flops for o in part if o.kind not in ('pointwise', 'copy')
                ),
                'bytes': sum(o.bytes for o in part),
                'sent_bytes': sum(o.sent for o in part),
                'milliseconds': 1e3 * device.seconds(part),
            }
    variants = {}
    for approximation in APPROXIMATIONS:
        for fisher_type in FISHER_TYPES:
            times = step_time(cost, device, approximation, fisher_type)
            variants[f'{approximation}, {fisher_type}'] = {
                'overhead': {
                    f'{statistics}, {inverse}': times.overhead(statistics, inverse)
                    for statistics in INTERVALS
                    for inverse in INTERVALS
                    if inverse >= statistics
                },
                'best_intervals': times.best_intervals(overhead),
            }
    return {
        'model': model.name,
        'devices': devices,
        'device': device.name,
        'parts': parts,
        'variants': variants,
        'memory_mib': memory(model),
    }


def format_report(content: Mapping[str, Any], overhead: float) -> str:
    """Formats a report as tables."""
    parts = [
        [
            name,
            f'{part["flops"] / 1e9:.2f}',
            f'{part["bytes"] / 1e6:.1f}',
            f'{part["sent_bytes"] / 1e6:.1f}',
            f'{part["milliseconds"]:.3f}',
        ]
        for name, part in content['parts'].items()
    ]
    pairs = list(next(iter(content['variants'].values()))['overhead'])
    variants = []
    for name, variant in content['variants'].items():
        best = variant['best_intervals']
        text = 'none' if best is None else f'{best[0]}, {best[1]}'
        overheads = (f'{variant["overhead"][pair]:.3f}' for pair in pairs)
        variants.append([name, *overheads, text])
    sizes = (f'{name} {size:.1f}' for name, size in content['memory_mib'].items())
    return '\n'.join(
        [
            f'{content["model"]} on {content["devices"]} {content["device"]}',
            text_tables.aligned(['part', 'GFLOP', 'MB', 'MB sent', 'ms'], parts),
            '',
            text_tables.aligned(
                ['overhead at intervals', *pairs, f'best within {overhead}'], variants
            ),
            '',
            f'MiB on each device: {", ".join(sizes)}',
            '',
        ]
    )


def _define_flags() -> None:
    flags.DEFINE_float('overhead', 0.05, 'Overhead that the best intervals keep to.')
    flags.DEFINE_bool('measure', False, 'Compare with times measured on this CPU.')
    flags.DEFINE_string(
        'workload', 'imagenet_vit_fashion_mnist', 'Offline workload to measure.'
    )
    flags.DEFINE_integer('rounds', 30, 'Rounds of measurements.')
    flags.DEFINE_string('output_dir', 'runs/cost_model', 'Where results go.')


def main(argv: Sequence[str]) -> None:
    """Prints the tables and writes the file."""
    del argv
    content: Any
    if flags.FLAGS.measure:
        cost_measurements.keep_freed_memory()
        workload = flags.FLAGS.workload
        try:
            rows = cost_measurements.compare(workload, flags.FLAGS.rounds)
        except ValueError as error:
            sys.exit(f'Error: {error}')
        print(cost_measurements.format_comparison(rows))
        machine = {**trials.machine('pytorch'), 'num_threads': 1}
        content = {'machine': machine, 'parts': rows}
        name = f'{workload}_measured'
    else:
        overhead = flags.FLAGS.overhead
        content = [report(m, n, A100, overhead) for m in MODELS for n in (1, 8)]
        for one in content:
            print(format_report(one, overhead))
        name = 'predicted'
    folder = pathlib.Path(flags.FLAGS.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{name}.json'
    path.write_text(json.dumps(content, indent=1), encoding='utf-8')
    print(f'Written to {path}')


if __name__ == '__main__':
    _define_flags()
    app.run(main)
