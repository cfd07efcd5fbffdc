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

import json
import pathlib
from typing import Any

from absl import flags

from experiments import command, trials
from experiments.cost_model import measurements
from experiments.cost_model.models import MODELS
from experiments.cost_model.operations import A100
from experiments.cost_model.report import format_report, report


def _define_flags() -> None:
    flags.DEFINE_float('overhead', 0.05, 'Overhead that the best intervals keep to.')
    flags.DEFINE_bool('measure', False, 'Compare with times measured on this CPU.')
    flags.DEFINE_string(
        'workload', 'imagenet_vit_fashion_mnist', 'Offline workload to measure.'
    )
    flags.DEFINE_integer('rounds', 30, 'Rounds of measurements.')
    flags.DEFINE_string('output_dir', 'runs/cost_model', 'Where results go.')


def main() -> None:
    """Prints the tables and writes the file."""
    content: Any
    if flags.FLAGS.measure:
        measurements.keep_freed_memory()
        workload = flags.FLAGS.workload
        rows = measurements.compare(workload, flags.FLAGS.rounds)
        print(measurements.format_comparison(rows))
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
    command.run(main)
