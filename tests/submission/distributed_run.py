"""What processes that train together do, and the means to start them.

Each trains on its part of every batch and leaves its results in a folder; the
processes meet over a file there, or as torchrun says if called by it:
`torchrun --nproc-per-node=N -m tests.submission.distributed_run FOLDER`.
"""

import dataclasses
import datetime
import functools
import multiprocessing
import os
import pathlib
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from submission.pytorch import labels

from .tiny_graph_workload import TinyGraphWorkload
from .tiny_workload import CLASSES, DIM, TinyModel, TinyWorkload
from .training import hyperparameters, init, train

STEPS = 5
TIMEOUT = 120


def _chunk(workload, step, rank, world_size):
    """A part of one batch; the parts differ in padding."""
    batch = workload.batch(step, n=16, weighted=True)
    return {key: value.chunk(world_size)[rank] for key, value in batch.items()}


GRAPH_STARTS = {1: [0, 8], 2: [0, 3, 8], 4: [0, 1, 3, 7, 8]}


def _graphs(workload, step, rank, world_size):
    """Some of the graphs, not as many for each process."""
    first, last = GRAPH_STARTS[world_size][rank : rank + 2]
    return workload.batch(step, first, last)


def _ambiguous_for_the_last(workload, step, rank, world_size):
    """From the third step on, the last process has as many edges as nodes."""
    first, last = GRAPH_STARTS[world_size][rank : rank + 2]
    return workload.batch(step, first, last, step >= 2 and rank + 1 == world_size)


class BranchModel(TinyModel):
    """A layer of it is for the examples alone whose first input is positive."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Linear(DIM, CLASSES)

    def forward(self, x, dropout_rate=0.0):
        outputs = super().forward(x, dropout_rate)
        chosen = (x[:, 0, 0] > 0).nonzero().squeeze(1)
        if len(chosen) > 0:
            outputs = outputs.index_add(0, chosen, self.branch(x[chosen, 0]))
        return outputs


class BranchWorkload(TinyWorkload):
    """The last quarter of the batch does not reach the branch."""

    def batch(self, seed=0, n=16, weighted=False):
        batch = super().batch(seed, n)
        batch['inputs'][-n // 4 :, 0, 0] = -1.0
        batch['inputs'][: n // 8, 0, 0] = 1.0
        return batch

    def init_model_fn(self, rng):
        torch.manual_seed(int(rng[0]))
        return BranchModel().to(self._dtype), None


def _likeliest_labels(likelihood, outputs, batch, generator, scale):
    """Stands for sampling, which draws other numbers in each process."""
    del likelihood, generator, scale
    probabilities = torch.softmax(outputs.detach(), -1)
    sampled = nn.functional.one_hot(probabilities.argmin(-1), CLASSES)
    return (probabilities - sampled) * batch['weights'].sqrt()[:, None]


@dataclasses.dataclass(frozen=True)
class Run:
    """A short training run."""

    point: Any
    make_workload: Callable[..., Any] = TinyWorkload
    part: Callable[..., Any] = _chunk
    dtype: torch.dtype = torch.float64
    wrap: Callable[..., nn.Module] = DistributedDataParallel
    # Steps after which the model comes without its wrapper, as from a checkpoint.
    wrapped_steps: int = STEPS


def _point(approximation, fisher_type='empirical', rule='nadamw', **changes):
    return hyperparameters(
        approximation=approximation,
        fisher_type=fisher_type,
        first_order_rule=rule,
        statistics_interval=2,
        inverse_interval=2,
        **changes,
    )


def _compiled(model):
    return torch.compile(DistributedDataParallel(model), backend='aot_eager')


RUNS = {
    'none': Run(_point('none')),
    'expand': Run(_point('expand')),
    'reduce, grafted': Run(_point('reduce', rule='grafted')),
    'expand, spectral': Run(_point('expand', rule='spectral')),
    'expand, Monte Carlo': Run(_point('expand', 'monte_carlo')),
    'reduce, Monte Carlo': Run(_point('reduce', 'monte_carlo')),
    'expand, every second position': Run(_point('expand', statistics_stride=2)),
    'reduce, float32': Run(_point('reduce'), dtype=torch.float32),
    'expand, averaged': Run(_point('expand', averaging_power=4.0)),
    'reduce, restored': Run(_point('reduce'), wrapped_steps=2),
    'none, restored': Run(_point('none'), wrapped_steps=2),
    'expand, graphs': Run(_point('expand'), TinyGraphWorkload, _graphs),
    'reduce, graphs': Run(_point('reduce', 'monte_carlo'), TinyGraphWorkload, _graphs),
    'expand, layer not reached by all': Run(
        _point('expand'),
        BranchWorkload,
        wrap=functools.partial(DistributedDataParallel, find_unused_parameters=True),
    ),
    'reduce, spectral, layer not reached by all': Run(
        _point('reduce', rule='spectral'),
        BranchWorkload,
        wrap=functools.partial(DistributedDataParallel, find_unused_parameters=True),
    ),
    'rows ambiguous for one': Run(
        _point('reduce'), TinyGraphWorkload, _ambiguous_for_the_last
    ),
}
COMPILED = {
    'reduce, grafted, compiled': Run(_point('reduce', rule='grafted'), wrap=_compiled)
}


def result(run, rank=0, world_size=1):
    """Trains on this process's part of each batch."""
    workload = run.make_workload(dtype=run.dtype)
    model, _ = workload.init_model_fn((0, 1))
    wrapped = run.wrap(model) if world_size > 1 else model
    state, _ = init(workload, run.point, wrapped)
    batches = [run.part(workload, step, rank, world_size) for step in range(STEPS)]
    with mock.patch.object(labels, 'sampled_output_gradient', _likeliest_labels):
        for container, steps in (
            (wrapped, range(run.wrapped_steps)),
            (model, range(run.wrapped_steps, STEPS)),
        ):
            train(workload, run.point, state, container, steps, batches)
    found = {'parameters': model.state_dict(), 'layers': {}, 'counters': {}}
    if 'average' in state:
        kept = state['average'].state_dict()['kept']
        found['parameters'].update({f'averaged {name}': kept[name] for name in kept})
    if 'preconditioner' in state:
        kfac = state['preconditioner'].state_dict()
        found.update(layers=kfac['layers'], counters=kfac['counters'])
    return found


def save_results(folder, rank, world_size, names=None):
    """Runs all, or those of the given names, in one of several processes."""
    runs = {**RUNS, **COMPILED}
    found = {
        name: result(runs[name], rank, world_size)
        for name in (RUNS if names is None else names)
    }
    torch.save(found, folder / f'rank_{rank}')


def _enter(target, folder, rank, world_size, args):
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            'gloo',
            init_method=f'file://{folder}/meeting',
            rank=rank,
            world_size=world_size,
            timeout=datetime.timedelta(seconds=60),
        )
        target(folder, rank, world_size, *args)
        dist.destroy_process_group()
    except BaseException:
        (folder / f'error_{rank}').write_text(traceback.format_exc())
        # Without the group's own farewell, which would wait for the others.
        os._exit(1)


def start(target, folder, world_size, *args):
    """Runs a function in several processes.

    Args:
      target: Called with folder, rank, number of processes, and the other arguments.
      folder: An empty folder.
      world_size: Number of processes.
      *args: Handed on.

    Returns:
      The exit code of each process, and what each wrote about its error.
    """
    context = multiprocessing.get_context('forkserver')
    # Imports once what all processes need.
    context.set_forkserver_preload(['pytest', __name__])
    processes = [
        context.Process(target=_enter, args=(target, folder, rank, world_size, args))
        for rank in range(world_size)
    ]
    deadline = time.monotonic() + TIMEOUT
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(max(deadline - time.monotonic(), 0.0))
    finally:
        for process in processes:
            process.kill()
            process.join()
    errors = [
        path.read_text() if path.exists() else ''
        for path in (folder / f'error_{rank}' for rank in range(world_size))
    ]
    return [process.exitcode for process in processes], errors


def main():
    torch.set_num_threads(1)
    dist.init_process_group('gloo', timeout=datetime.timedelta(seconds=60))
    if 'killed' in sys.argv and dist.get_rank() == 1:
        torch.Tensor.backward = lambda loss: os.kill(os.getpid(), signal.SIGKILL)
    save_results(
        pathlib.Path(sys.argv[1]),
        dist.get_rank(),
        dist.get_world_size(),
        ['reduce, grafted'],
    )
    dist.destroy_process_group()


if __name__ == '__main__':
    main()
