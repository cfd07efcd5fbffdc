import torch

from experiments.step_time import memory


def test_peak_can_be_set_back():
    torch.ones(10_000_000)
    memory.set_peak_back()
    before = memory.peak_bytes()
    torch.ones(10_000_000)
    after = memory.peak_bytes()
    # Freed since, and still seen.
    assert after - before > 30e6
    memory.set_peak_back()
    assert memory.peak_bytes() < after


def test_in_a_process_of_its_own():
    result = memory.measure(
        'imagenet_vit_fashion_mnist', 'pytorch', 'reduce, monte_carlo', 8, 1
    )
    assert set(result) == {'before_mib', 'peak_mib', 'added_mib'}
    assert 0 < result['added_mib'] < result['peak_mib']
    # Not what this process holds, as its own peak would be.
    held = torch.ones(200_000_000)
    again = memory.measure('imagenet_vit_fashion_mnist', 'pytorch', 'nadamw', 8, 1)
    assert again['peak_mib'] < held.nbytes / 2**20
