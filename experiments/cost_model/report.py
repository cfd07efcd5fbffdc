"""All that the cost model says of a model, and tables of it."""

import itertools
from collections.abc import Mapping
from typing import Any

from experiments import text_tables
from experiments.cost_model.models import Model
from experiments.cost_model.operations import FLOAT_BYTES, Device
from experiments.cost_model.parts import StepCost
from experiments.cost_model.step_time import step_time
from experiments.step_time.variants import APPROXIMATIONS, FISHER_TYPES
from submission.settings import FirstOrderRule

INTERVALS = (1, 10, 50)
RULES: tuple[FirstOrderRule, ...] = ('nadamw', 'spectral')


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
    for approximation, fisher_type, rule in itertools.product(
        APPROXIMATIONS, FISHER_TYPES, RULES
    ):
        times = step_time(cost, device, approximation, fisher_type, rule)
        variants[f'{approximation}, {fisher_type}, {rule}'] = {
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
