"""Compares the cost model with times on this machine.

The machine's rates come from single operations at sizes of their own; the parts of the
submission's steps are then timed on an offline workload, and nothing is fitted to them.
Times are processor seconds of one thread, which other programs on the machine disturb
least.

Freed memory stays with the process while parts are timed, as PyTorch keeps it on a GPU.
On a CPU the system's allocator may give it back and fetch it anew in each statistics
step, which needs more of it than others; that time, which was a quarter of the extra
backward pass, is not in the model.
"""

import collections
import ctypes
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from experiments import text_tables
from experiments.cost_model.offline_models import offline_model
from experiments.cost_model.operations import FLOAT_BYTES, Device, Part
from experiments.cost_model.parts import StepCost
from experiments.step_time import pytorch_parts
from experiments.step_time.runs import Run
from submission.settings import get_batch_size
from workloads_overrides import registry

APPROXIMATIONS = ('expand', 'reduce')
# Parts that a plain step has too, without the watching of a statistics step.
_PLAIN_PARTS = ('forward and backward', 'preconditioning', 'first-order rule')
_STATISTICS_PARTS = ('extra backward', 'factors', 'inverses')
# In the place of preconditioning; of a run of its own, by another rule.
_DIRECTIONS = 'spectral directions'

# Sizes of the operations that give the rates: matrices in the range of the model's, and
# arrays that no cache holds, as a training step's activations are not.
_ROWS, _DIM = 4096, 96
_INVERSE_DIMS = 64, 256
_ENTRIES = 4_000_000
# Pairs of small matrices, and their entries in another order, as heads have them.
_PAIRS, _PAIR_ROWS, _PAIR_DIM = (64, 4), 64, 24

# M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h, at the most they take.
_ALLOCATION_OPTIONS = {-1: 2**31 - 1, -3: 2**25}

# Small operations are timed as they come in a step: about once a layer, and after large
# ones, whose data and code then fill the caches.
_REPEATS = 20
# Those for lists are for all parameters of the model.
_LISTED = 60


def keep_freed_memory() -> None:
    """Asks the C library to, for as long as this process lives.

    Does nothing where that library is not GNU's.
    """
    set_option = getattr(ctypes.CDLL(None), 'mallopt', None)
    if set_option is not None:
        for option, value in _ALLOCATION_OPTIONS.items():
            set_option(option, value)


def _time(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def _probes() -> dict[str, Callable[[], Any]]:
    """Returns single operations, whose times give this machine's rates."""
    rows, matrix = torch.randn(_ROWS, _DIM), torch.randn(_DIM, _DIM)
    entries, others = torch.randn(_ENTRIES), torch.randn(_ENTRIES)
    examples, heads = _PAIRS
    together = torch.randn(examples, _PAIR_ROWS, heads, _PAIR_DIM)
    apart = together.transpose(1, 2).contiguous().flatten(0, 1)
    columns = apart.transpose(1, 2).contiguous()

    def several(matrix: Tensor, number: int = _REPEATS) -> list[Tensor]:
        # A step works on other matrices each time, which are not in the nearest cache.
        return [matrix.clone() for _ in range(number)]

    small, matrices = several(torch.zeros(8, 8)), several(matrix)
    listed = several(torch.zeros(8, 8), _LISTED)
    factors = [
        several(0.1 * torch.randn(d, d) + d * torch.eye(d)) for d in _INVERSE_DIMS
    ]

    def small_operations() -> None:
        for tensor in small:
            tensor + tensor
            tensor @ tensor
            tensor.mean()
            torch.cat([tensor, tensor])

    def copy() -> None:
        # Of an attention's four copies one exchanges rows and columns, too.
        for _ in range(3):
            together.transpose(1, 2).contiguous()
        together.permute(0, 2, 3, 1).contiguous()

    def list_operations() -> None:
        torch._foreach_mul_(listed, 1.0)
        torch._foreach_lerp_(listed, listed, 0.5)
        torch._foreach_addcmul_(listed, listed, listed)
        torch._foreach_sqrt(listed)

    def square() -> None:
        for tensor in matrices:
            tensor @ tensor

    def inverse(dim_factors: Sequence[Tensor]) -> None:
        for factor in dim_factors:
            torch.cholesky_inverse(torch.linalg.cholesky(factor))

    return {
        'rows': lambda: rows @ matrix,
        'gram': lambda: rows.T @ rows,
        'square': square,
        'small inverse': lambda: inverse(factors[0]),
        'inverse': lambda: inverse(factors[1]),
        'batch': lambda: apart @ columns,
        'copy': copy,
        'exponential': entries.exp,
        'sum': lambda: entries + others,
        'small operations': small_operations,
        'list': list_operations,
    }


def _device(seconds: Mapping[str, float]) -> Device:
    """Returns this machine's rates from the times of the probes."""
    kernel = seconds['small operations'] / (4 * _REPEATS)
    product = 2 * _ROWS * _DIM**2
    pairs = math.prod(_PAIRS)
    # Two sizes give the times of a column and of an operation.
    low, high = (
        seconds[name] / _REPEATS - 2 * kernel for name in ('small inverse', 'inverse')
    )
    small, large = _INVERSE_DIMS
    inverse_flop = (high / large - low / small) / (large**2 - small**2)
    return Device(
        'this CPU',
        flops={
            'rows': product / seconds['rows'],
            'gram': product / seconds['gram'],
            'square': 2 * _DIM**3 / (seconds['square'] / _REPEATS - kernel),
            'batch': 2 * pairs * _PAIR_ROWS**2 * _PAIR_DIM / seconds['batch'],
            'inverse': 1 / inverse_flop,
            'pointwise': _ENTRIES / seconds['exponential'],
            'copy': 4 * pairs * _PAIR_ROWS * _PAIR_DIM / seconds['copy'],
        },
        bandwidth=3 * FLOAT_BYTES * _ENTRIES / seconds['sum'],
        network=float('inf'),
        kernel_seconds=kernel,
        column_seconds=low / small - inverse_flop * small**2,
        list_seconds=seconds['list'] / (4 * _LISTED),
    )


def _start(workload_name: str, approximation: str, rule: str = 'nadamw') -> Run:
    """Returns the training of an offline model, warmed up."""
    point = {
        'approximation': approximation,
        'first_order_rule': rule,
        'learning_rate': 1e-3,
        'one_minus_beta1': 0.1,
        'beta2': 0.99,
        'weight_decay': 0.0,
        'warmup_factor': 0.0,
    }
    workload = registry.load_workload(workload_name, 'pytorch')
    batch_size = get_batch_size(workload_name)
    run = Run(workload, 'pytorch', point, batch_size, clock=time.process_time)
    run.warm_up()
    return run


def _part_seconds(runs: Mapping[str, Run]) -> dict[str, float]:
    """Times the parts of a step of each approximation, and directions, once."""
    seconds = {}
    measured = pytorch_parts.measure(runs, 1, False)
    seconds[_DIRECTIONS] = measured.pop(_DIRECTIONS)['plain']['preconditioning']
    for approximation, kinds in measured.items():
        for part in _PLAIN_PARTS:
            seconds[part] = kinds['plain'][part]
        for part in _STATISTICS_PARTS:
            name = f'{part}, {approximation}' if part == 'factors' else part
            seconds[name] = kinds['statistics'][part]
    return seconds


def _predictions(workload_name: str) -> dict[str, Part]:
    """Returns the parts of the cost model under the names of the measured ones."""
    cost = StepCost(offline_model(workload_name), on_cpu=True)
    factors = {
        approximation: cost.parts(approximation)['factors']
        for approximation in APPROXIMATIONS
    }
    parts = cost.parts(APPROXIMATIONS[0])
    return {
        'forward and backward': parts['forward'] + parts['backward'],
        'extra backward': parts['extra backward'],
        **{f'factors, {name}': part for name, part in factors.items()},
        **{name: parts[name] for name in ('inverses', *_PLAIN_PARTS[1:], _DIRECTIONS)},
    }


def compare(workload_name: str, rounds: int) -> list[dict[str, Any]]:
    """Compares predictions with measurements.

    Probes and parts are timed in turn, so that both see the same machine where others
    use it too.

    Args:
      workload_name: Name of an offline workload.
      rounds: How often each is timed; two more rounds warm up.

    Returns:
      Predicted and measured milliseconds, and their ratio, by part.
    """
    # First, since a model without a description should not wait for the measurement.
    predictions = _predictions(workload_name)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    probes, fill_caches = _probes(), torch.randn(_ENTRIES).exp
    runs = {
        approximation: _start(workload_name, approximation)
        for approximation in APPROXIMATIONS
    }
    runs[_DIRECTIONS] = _start(workload_name, APPROXIMATIONS[0], 'spectral')
    times: dict[str, list[float]] = collections.defaultdict(list)
    for number in range(rounds + 2):
        seconds = {}
        for name, probe in probes.items():
            fill_caches()
            seconds[name] = _time(probe)
        seconds.update(_part_seconds(runs))
        if number >= 2:
            for name, elapsed in seconds.items():
                times[name].append(elapsed)
    torch.set_num_threads(threads)
    medians = {name: statistics.median(values) for name, values in times.items()}
    device = _device(medians)
    return [
        {
            'part': name,
            'predicted_ms': 1e3 * device.seconds(part),
            'measured_ms': 1e3 * medians[name],
            'ratio': device.seconds(part) / medians[name],
        }
        for name, part in predictions.items()
    ]


def format_comparison(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats a comparison as a table."""
    header = ['part', 'predicted ms', 'measured ms', 'predicted / measured']
    cells = [
        [
            row['part'],
            f'{row["predicted_ms"]:.3f}',
            f'{row["measured_ms"]:.3f}',
            f'{row["ratio"]:.2f}',
        ]
        for row in rows
    ]
    return text_tables.aligned(header, cells)
