"""Two processes on half batches do what one does on whole ones."""

import os
import pathlib
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist

from . import distributed_run

WORLD_SIZE = 2
TIMEOUT = 120
ROOT = pathlib.Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(),
    reason='this build of torch has no gloo',
)


@pytest.fixture(scope='module')
def of_ranks(tmp_path_factory):
    """The results of each process."""
    folder = tmp_path_factory.mktemp('distributed')
    command = [sys.executable, '-m', distributed_run.__name__]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(WORLD_SIZE), str(folder)],
            cwd=ROOT,
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(WORLD_SIZE)
    ]
    deadline = time.monotonic() + TIMEOUT
    try:
        for process in processes:
            _, errors = process.communicate(timeout=deadline - time.monotonic())
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [
        torch.load(folder / f'rank_{rank}', weights_only=True)
        for rank in range(WORLD_SIZE)
    ]


@pytest.fixture(scope='module')
def of_one():
    """The results of a single process."""
    return distributed_run.results()


def _tensors(result):
    for name, value in result['parameters'].items():
        yield name, value
    for name, state in result['layers'].items():
        for key, value in state.items():
            if torch.is_tensor(value):
                yield f'{name}.{key}', value


@pytest.mark.parametrize('run', distributed_run.RUNS)
def test_processes_agree_bit_for_bit(of_ranks, run):
    left, right = (dict(_tensors(results[run])) for results in of_ranks)
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize(
    'run', [run for run in distributed_run.RUNS if 'monte_carlo' not in run]
)
def test_they_equal_one_process_on_the_whole_batch(of_ranks, of_one, run):
    found, expected = dict(_tensors(of_ranks[0][run])), dict(_tensors(of_one[run]))
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-11)


def test_inputs_do_not_depend_on_the_labels_sampled(of_ranks, of_one):
    """Under the Monte-Carlo Fisher the first step's inputs are still the same."""
    run = 'reduce, monte_carlo, nadamw'
    left, right = of_ranks[0][run]['layers'], of_one[run]['layers']
    averages = [
        (layers['first']['a']['moving_average'], layers['head']['b']['moving_average'])
        for layers in (left, right)
    ]
    torch.testing.assert_close(averages[0][0], averages[1][0])
    assert not torch.allclose(averages[0][1], averages[1][1])
