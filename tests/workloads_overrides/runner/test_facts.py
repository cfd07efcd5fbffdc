import pytest

from tests.workloads_overrides.runner.fakes import FakeWorkload
from workloads_overrides.runner import facts
from workloads_overrides.runner.nvidia_gpus import Gpu
from workloads_overrides.runner.pytorch_framework import PyTorchFramework

GPUS = [
    Gpu(index, 'NVIDIA A', '1.2', 0.5, 1000.0, 250.0, 750.0, 40.0) for index in (0, 1)
]


@pytest.fixture
def recorded(monkeypatch):
    """Returns the facts that are recorded on a machine of some GPUs."""

    def record(gpus):
        monkeypatch.setattr(facts, 'nvidia_gpus', lambda: gpus)
        return facts.meta_data(FakeWorkload(), PyTorchFramework(), rng_seed=3)

    return record


def test_gpus_are_named_and_their_load_is_recorded(recorded):
    found = recorded(GPUS)
    assert found['gpu_model_name'] == 'NVIDIA A'
    assert found['gpu_count'] == 2
    assert found['gpu_driver'] == '1.2'
    assert found['gpu.1.mem.used'] == 250.0
    assert found['gpu.avg.mem.util'] == 0.25


def test_without_gpus_only_the_rest_is_recorded(recorded):
    without = recorded([])
    assert {name for name in without if name.startswith('gpu')} == set()
    assert {name for name in recorded(GPUS) if not name.startswith('gpu')} == set(
        without
    )
    assert without['mem.total'] > 0
    assert without['rng_seed'] == 3
