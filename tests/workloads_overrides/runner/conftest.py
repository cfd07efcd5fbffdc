import pathlib

import pytest
import torch

from tests.workloads_overrides.runner import fakes
from workloads_overrides import registry
from workloads_overrides.runner import clock

_ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture(scope='module', autouse=True)
def fake_workloads():
    """Registers the fake workloads, and runs where submission paths begin."""
    threads = torch.get_num_threads()
    # Threads only cost time with tensors this small.
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for name, entry in fakes.ENTRIES.items():
            patch.setitem(registry.WORKLOADS, name, entry)
        patch.chdir(_ROOT)
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def paper_clock(monkeypatch):
    """Replaces the runner's clock by one that tests move."""
    paper = fakes.Clock()
    monkeypatch.setattr(clock, 'now', paper.now)
    return paper
