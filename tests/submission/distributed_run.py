"""One of several processes that train together.

Called as `python -m tests.submission.distributed_run RANK WORLD_SIZE FOLDER`; the
processes meet over a file in FOLDER, and each leaves its results there.
"""

import datetime
import pathlib
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from .tiny_workload import TinyWorkload
from .training import hyperparameters, init, train

STEPS = 5
RUNS = {
    f'{approximation}, {fisher_type}, {rule}': hyperparameters(
        approximation=approximation,
        fisher_type=fisher_type,
        first_order_rule=rule,
        statistics_interval=2,
        inverse_interval=2,
    )
    for approximation, fisher_type, rule in (
        ('expand', 'empirical', 'nadamw'),
        ('reduce', 'empirical', 'grafted'),
        ('none', 'empirical', 'nadamw'),
        ('reduce', 'monte_carlo', 'nadamw'),
    )
}


def _part(batch, rank, world_size):
    return {key: value.chunk(world_size)[rank] for key, value in batch.items()}


def results(rank=0, world_size=1):
    """Trains on this process's part of each batch; the parts differ in padding."""
    found = {}
    for name, point in RUNS.items():
        workload = TinyWorkload(dtype=torch.float64)
        model, _ = workload.init_model_fn((0, 1))
        wrapped = DistributedDataParallel(model) if world_size > 1 else model
        state, _ = init(workload, point, wrapped)
        batches = [
            _part(workload.batch(step, n=16, weighted=True), rank, world_size)
            for step in range(STEPS)
        ]
        train(workload, point, state, wrapped, range(STEPS), batches)
        layers = {}
        if 'preconditioner' in state:
            layers = state['preconditioner'].state_dict()['layers']
        found[name] = {'parameters': model.state_dict(), 'layers': layers}
    return found


def main():
    rank, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo',
        init_method=f'file://{folder}/meeting',
        rank=rank,
        world_size=world_size,
        timeout=datetime.timedelta(seconds=60),
    )
    torch.save(results(rank, world_size), pathlib.Path(folder) / f'rank_{rank}')
    dist.destroy_process_group()


if __name__ == '__main__':
    main()
