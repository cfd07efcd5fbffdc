r"""Trains in PyTorch and in JAX from the same parameters on the same batches.

Example::

    python -m experiments.same_start --starts=0,1,2

In double precision and with the same sampled labels both frameworks take the same
steps (`tests/submission/test_parity.py`). In single precision, each with sampled labels
of its own, two runs soon part; whether they end at metrics that are alike is measured
here, where initial parameters and batches are no reason for a difference. K-FAC trains
at the point of `make run` to the end of its schedule.

Appends the validation metric of both to `results/same_start/<workload>.jsonl` after
each start; what is recorded is not trained again.
"""

import importlib
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from torch import nn
from tqdm import tqdm

from experiments import command, compare, trials
from experiments.seeds import parse_seeds
from experiments.training import Training
from submission.settings import get_batch_size
from workloads_overrides import flax_parameters, registry
from workloads_overrides.runner import frameworks

RESULTS = pathlib.Path(__file__).parent / 'results' / 'same_start'


def to_flax(workload: Any, model: nn.Module) -> Any:
    """Returns a PyTorch model's parameters as those of the Flax model.

    Args:
      workload: The workload, in either framework.
      model: Its model in PyTorch.
    """
    state_dict = model.state_dict()
    if hasattr(workload, 'model_size'):
        heads = workload.model_size.num_heads
        params = flax_parameters.vit_params(state_dict, heads)
    else:
        params = flax_parameters.gnn_params(state_dict)
    return jax.tree.map(jnp.array, params)


def start_pair(workload_name: str, approximation: str, start: int) -> list[Training]:
    """Starts training in both frameworks, PyTorch first.

    Args:
      workload_name: Name of an offline workload.
      approximation: `'expand'` or `'reduce'`.
      start: Number of the initial parameters and of the order of batches.
    """
    pair: list[Training] = []
    for name in ('pytorch', 'jax'):
        workload = registry.load_workload(workload_name, name)
        pair.append(
            Training.start(
                workload,
                name,
                importlib.import_module(f'submission.{name}_submission'),
                compare.hyperparameters_of(f'kfac_{approximation}', workload_name),
                get_batch_size(workload_name),
                seed=start,
                # Those of the first of the pair, which it has not trained yet.
                params=to_flax(workload, pair[0].state[1]) if pair else None,
                data_rng=(0, start),
            )
        )
    return pair


def validation_metric(training: Training) -> float:
    """Returns the target metric on the validation split."""
    workload = training.workload
    metrics = workload._eval_model_on_split(
        'validation',
        workload.num_validation_examples,
        workload.eval_batch_size,
        training.state[1],
        training.state[2],
        training.key,
        None,
        0,
    )
    return float(metrics[workload.target_metric_name])


def train_pair(
    workload_name: str, approximation: str, start: int, steps: int
) -> dict[str, float]:
    """Trains in both frameworks; returns framework to validation metric.

    Args:
      workload_name: Name of an offline workload.
      approximation: `'expand'` or `'reduce'`.
      start: Number of the initial parameters and of the order of batches.
      steps: Steps to take.
    """
    pair = start_pair(workload_name, approximation, start)
    for step in tqdm(range(steps), desc=f'start {start}', unit='step'):
        for training in pair:
            training.take_steps([step])
    pytorch, jax_ = (round(validation_metric(training), 5) for training in pair)
    return {'pytorch': pytorch, 'jax': jax_}


def _define_flags() -> None:
    flags.DEFINE_string('workload', 'imagenet_vit_fashion_mnist', 'Offline workload.')
    flags.DEFINE_enum('approximation', 'reduce', ('expand', 'reduce'), 'Which K-FAC.')
    flags.DEFINE_list('starts', ['0', '1', '2'], 'Numbers of the initial parameters.')
    flags.DEFINE_integer('num_threads', 1, 'Threads within an operation.', 1)
    flags.DEFINE_string('output_dir', str(RESULTS), 'Folder of the results.')


def main() -> None:
    """Trains what is not recorded, and prints all that is."""
    given = flags.FLAGS
    path = pathlib.Path(given.output_dir) / f'{given.workload}.jsonl'
    starts = parse_seeds(given.starts)
    method = f'kfac_{given.approximation}'
    point = compare.hyperparameters_of(method, given.workload)
    steps = trials.schedule_steps(
        trials.Trial(method, given.workload, 'pytorch', point, seed=0)
    )
    for name in ('pytorch', 'jax'):
        frameworks.load(name).set_num_threads(given.num_threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines]
    done = {(record['approximation'], record['start']) for record in records}
    for start in starts:
        if (given.approximation, start) in done:
            continue
        record = {
            'approximation': given.approximation,
            'start': start,
            'steps': steps,
            **train_pair(given.workload, given.approximation, start, steps),
            'machine': {**trials.machine('pytorch'), **trials.machine('jax')},
        }
        records.append(record)
        with path.open('a') as file:
            file.write(json.dumps(record) + '\n')
    for record in records:
        print(
            f'{record["approximation"]}, start {record["start"]}: '
            f'PyTorch {record["pytorch"]:.4f}, JAX {record["jax"]:.4f}'
        )


if __name__ == '__main__':
    _define_flags()
    command.run(main)
