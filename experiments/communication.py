r"""Measures what several processes send each other, and how long a step takes them.

Example::

    python -m experiments.communication --world_sizes=1,2,4

The processes train the offline workloads on this machine with PyTorch's
`DistributedDataParallel` and gloo, on one thread each, and share out the same global
batch. Prints a table for each workload, and writes it with the seconds and bytes of
every step to `experiments/results/communication/`.

Bytes are those that a process contributes to collective operations, as the
submission counts them; the gradients, which `DistributedDataParallel` sends, are
counted by a hook of its own. How often a backend passes a buffer on is not counted.
"""

import collections
import itertools
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing
from absl import flags, logging
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from experiments import command, text_tables, trials
from submission import pytorch_submission
from submission.pytorch.communication import traffic
from workloads_overrides import random_utils, registry
from workloads_overrides.runner.search_space import as_hyperparameters
from workloads_overrides.runner.submission_functions import batch_size_for

INTERVAL = 10
_POINT = {
    'learning_rate': 1e-3,
    'one_minus_beta1': 0.1,
    'beta2': 0.99,
    'weight_decay': 0.01,
    'warmup_factor': 0.05,
    'statistics_interval': INTERVAL,
    'inverse_interval': INTERVAL,
}
METHODS = {
    'nadamw': {**_POINT, 'approximation': 'none'},
    'kfac_expand': {**_POINT, 'approximation': 'expand'},
    'kfac_reduce': {**_POINT, 'approximation': 'reduce'},
    'kfac_expand_spectral': {
        **_POINT,
        'approximation': 'expand',
        'first_order_rule': 'spectral',
    },
}
# Names under which the submission counts what it sends, and that of the hook.
_GRADIENTS = 'gradients'
_EXCHANGES = (
    _GRADIENTS,
    'factor statistics',
    'inverses of the factors',
    'preconditioned gradients',
    'directions of the spectral rule',
)


def _count_and_average(
    group: dist.ProcessGroup, bucket: dist.GradBucket
) -> torch.futures.Future[torch.Tensor]:
    traffic.record(_GRADIENTS, bucket.buffer().nbytes)
    return default_hooks.allreduce_hook(group, bucket)


def _train(
    rank: int, world_size: int, workload_name: str, n_steps: int, folder: str
) -> None:
    """Trains in one of several processes, an interval with each method in turn."""
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=world_size
    )
    runs = {
        method: _steps(workload_name, point, rank, world_size)
        for method, point in METHODS.items()
    }
    steps: dict[str, list[dict[str, Any]]] = {method: [] for method in METHODS}
    for run in runs.values():
        # The first steps hold an extra statistics step, and whatever happens once.
        collections.deque(itertools.islice(run, INTERVAL), maxlen=0)
    for _ in range(n_steps // INTERVAL):
        for method, run in runs.items():
            steps[method] += itertools.islice(run, INTERVAL)
    (pathlib.Path(folder) / f'{rank}.json').write_text(json.dumps(steps))
    dist.destroy_process_group()


def _steps(
    workload_name: str, point: Mapping[str, Any], rank: int, world_size: int
) -> Iterator[dict[str, Any]]:
    """Trains, and yields the seconds and bytes of each step."""
    workload = registry.load_workload(workload_name, 'pytorch')
    batches = workload._build_input_queue(
        random_utils.prng_key(rank),
        'train',
        None,
        batch_size_for(pytorch_submission.get_batch_size, workload_name) // world_size,
    )
    model: nn.Module
    model, model_state = workload.init_model_fn(random_utils.prng_key(0))
    if world_size > 1:
        wrapped = DistributedDataParallel(model)
        wrapped.register_comm_hook(dist.group.WORLD, _count_and_average)
        model = wrapped
    key = random_utils.prng_key(1)
    state = pytorch_submission.init_optimizer_state(
        workload, model, model_state, as_hyperparameters(dict(point)), key
    )
    for step in itertools.count():
        batch = next(batches)
        traffic.clear()
        dist.barrier()
        start = time.perf_counter()
        pytorch_submission.update_params(
            workload=workload,
            current_param_container=model,
            current_params_types=workload.model_params_types,
            model_state=model_state,
            hyperparameters=None,
            batch=batch,
            loss_type=workload.loss_type,
            optimizer_state=state,
            eval_results=[],
            global_step=step,
            rng=random_utils.fold_in(key, step),
        )
        seconds = time.perf_counter() - start
        yield {
            'step': step,
            'seconds': round(seconds, 6),
            'calls': dict(traffic.calls),
            'bytes_sent': dict(traffic.bytes_sent),
        }


def parse_world_sizes(texts: Sequence[str]) -> list[int]:
    """Returns the numbers of processes.

    Raises:
      ValueError: If one is not a whole number of at least 1, or there is none.
    """
    for text in texts or ['']:
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(
                f'--world_sizes has {text!r}; give whole numbers of at least 1, as in '
                '--world_sizes=1,2,4.'
            )
    return [int(text) for text in texts]


def measure(
    workload_name: str, world_size: int, n_steps: int
) -> dict[str, list[list[dict[str, Any]]]]:
    """Returns method to the steps of each process."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(
            _train, (world_size, workload_name, n_steps, folder), world_size
        )
        of_ranks = [
            json.loads((pathlib.Path(folder) / f'{rank}.json').read_text())
            for rank in range(world_size)
        ]
    return {method: [steps[method] for steps in of_ranks] for method in METHODS}


def summarise(of_ranks: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Returns milliseconds and bytes a step.

    A step takes as long as the slowest process; bytes are a process's mean.

    Args:
      of_ranks: The steps of each process.
    """
    is_statistics = np.array([s['step'] % INTERVAL == 0 for s in of_ranks[0]])
    seconds = np.array([[s['seconds'] for s in steps] for steps in of_ranks]).max(0)
    plain = float(np.median(seconds[~is_statistics]))
    statistics = float(np.median(seconds[is_statistics]))
    sent = {
        what: np.array(
            [[s['bytes_sent'].get(what, 0) for s in steps] for steps in of_ranks]
        ).mean(0)
        for what in _EXCHANGES
    }
    summary: dict[str, Any] = {
        'milliseconds_plain_step': round(1e3 * plain, 2),
        'milliseconds_statistics_step': round(1e3 * statistics, 2),
        'milliseconds_mean': round(1e3 * (plain + (statistics - plain) / INTERVAL), 2),
    }
    for what, values in sent.items():
        summary[f'bytes {what}'] = round(float(values[is_statistics].mean()))
    total = np.sum(list(sent.values()), axis=0)
    every_step = float(total[~is_statistics].mean())
    amortised = float(total[is_statistics].mean()) - every_step
    summary['bytes_mean'] = round(every_step + amortised / INTERVAL)
    return summary


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats the summaries of one workload."""
    columns = {
        'processes': 'world_size',
        'method': 'method',
        'ms plain': 'milliseconds_plain_step',
        'ms statistics': 'milliseconds_statistics_step',
        'ms mean': 'milliseconds_mean',
        **{f'kB {what}': f'bytes {what}' for what in _EXCHANGES},
        'kB mean': 'bytes_mean',
    }
    cells = [
        [
            f'{row[key] / 1e3:.1f}' if title.startswith('kB') else str(row[key])
            for title, key in columns.items()
        ]
        for row in rows
    ]
    return text_tables.aligned(list(columns), cells)


def define_flags() -> None:
    """Defines the flags; several modules here have flags of the same names."""
    flags.DEFINE_list(
        'workloads',
        ['ogbg_chembl', 'imagenet_vit_fashion_mnist'],
        'Names of the workloads.',
    )
    flags.DEFINE_list('world_sizes', ['1', '2', '4'], 'Numbers of processes.')
    flags.DEFINE_integer(
        'steps', 30, 'Steps that count, a multiple of the statistics interval, 10.'
    )
    flags.DEFINE_string(
        'output_dir', 'experiments/results/communication', 'Where results go.'
    )


def main() -> None:
    """Measures, prints the tables and writes the files."""
    if flags.FLAGS.steps < INTERVAL or flags.FLAGS.steps % INTERVAL != 0:
        raise ValueError(f'--steps has to be a multiple of {INTERVAL}.')
    for workload_name in flags.FLAGS.workloads:
        registry.workload_class(workload_name, 'pytorch')
    world_sizes = parse_world_sizes(flags.FLAGS.world_sizes)
    folder = pathlib.Path(flags.FLAGS.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    for workload_name in flags.FLAGS.workloads:
        rows, raw, loads = [], {}, {}
        for world_size in world_sizes:
            logging.info('%s, %d processes', workload_name, world_size)
            measured = measure(workload_name, world_size, flags.FLAGS.steps)
            raw[world_size] = measured
            # Of the last minute, this run's processes included.
            loads[world_size] = round(os.getloadavg()[0], 2)
            rows += [
                {'world_size': world_size, 'method': method, **summarise(of_ranks)}
                for method, of_ranks in measured.items()
            ]
        path = folder / f'{workload_name}_pytorch.json'
        machine = {**trials.machine('pytorch'), 'num_threads': 1}
        content = {
            'machine': machine,
            'load_average': loads,
            'summary': rows,
            'steps': raw,
        }
        path.write_text(json.dumps(content) + '\n')
        print(f'{workload_name}\n{table(rows)}\nWritten to {path}\n')


if __name__ == '__main__':
    define_flags()
    command.run(main)
