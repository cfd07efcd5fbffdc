import mmap

import jax
import torch

from experiments.step_time import memory
from experiments.step_time.runs import Run
from experiments.step_time.variants import points
from tests.experiments.step_time.workloads import tiny_workload


def fill_new_memory(size=40_000_000):
    """Fills pages that come from the system, and gives them back.

    What an allocator hands out may be resident already, freed by others before.
    """
    with mmap.mmap(-1, size) as pages:
        pages.write(bytes(size))


def test_peak_can_be_set_back():
    # The bytes that are written are there the second time.
    fill_new_memory()
    memory.set_peak_back()
    before = memory.peak_bytes()
    fill_new_memory()
    after = memory.peak_bytes()
    # Freed since, and still seen.
    assert after - before > 30e6
    memory.set_peak_back()
    assert memory.peak_bytes() < after


def test_in_a_process_of_its_own():
    held = torch.ones(200_000_000)
    result = memory.measure(
        'imagenet_vit_fashion_mnist', 'pytorch', 'reduce, monte_carlo', 8, 1
    )
    assert set(result) == {'before_mib', 'peak_mib', 'added_mib'}
    assert 0 < result['added_mib'] < result['peak_mib']
    # Not what this process holds, as its own peak would be.
    assert result['peak_mib'] < held.nbytes / 2**20


def test_the_compilers_count_in_jax():
    workload = tiny_workload('jax')
    counts = {}
    for method in ('nadamw', 'reduce, monte_carlo'):
        run = Run(workload, 'jax', points()[method], batch_size=8)
        counts[method] = memory.compiled_bytes(run)
        params = run.training.state[1]
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    # Parameters, two moments and their gradients, and with K-FAC its factors besides.
    assert 4 * parameters < counts['nadamw'] < counts['reduce, monte_carlo']
