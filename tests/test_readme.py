import dataclasses
import pathlib

import pytest
import torch

from experiments.time_to_target.methods import RESULTS
from submission.settings import Settings

README = (pathlib.Path(__file__).parent.parent / 'README.md').read_text()


@pytest.mark.parametrize('field', dataclasses.fields(Settings), ids=lambda f: f.name)
def test_every_hyperparameter_is_listed_with_its_default(field):
    rows = [
        line for line in README.splitlines() if line.startswith(f'| `{field.name}`')
    ]
    assert len(rows) == 1, f'{field.name} has {len(rows)} rows in README.md'
    default = rows[0].split('|')[2].strip().strip('`')
    if isinstance(field.default, float):
        assert float(default) == field.default
    else:
        assert default == str(field.default)


def _example(framework):
    """Runs the README's example for a framework and returns its names."""
    (source,) = (
        block.split('```')[0]
        for block in README.split('```python\n')[1:]
        if f'import {framework}\n' in block
    )
    names = {}
    exec(compile(source, 'README.md', 'exec'), names)
    return names


def test_the_pytorch_example_trains():
    torch.manual_seed(0)
    names = _example('torch')
    losses = [names['statistics_step'](names['batch']) for _ in range(20)]
    assert losses[-1] < 0.8 * losses[0]


def test_the_jax_example_trains():
    names = _example('jax')
    params, state, losses = names['params'], names['state'], []
    for _ in range(20):
        params, state, loss = names['statistics_step'](params, state, names['batch'])
        losses.append(float(loss))
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    'workload',
    [
        'ogbg_chembl_pytorch',
        'imagenet_vit_fashion_mnist_pytorch',
        'ogbg_chembl_jax',
        'imagenet_vit_fashion_mnist_jax',
        'ogbg_chembl_full_pytorch',
        'imagenet_vit_fashion_mnist_wide_pytorch',
    ],
)
def test_the_tables_are_those_that_were_written(workload):
    assert (RESULTS / workload / 'table.md').read_text() in README
