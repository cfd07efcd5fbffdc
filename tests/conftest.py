"""Settings that every test shares."""

import gc
import os

import hypothesis
import pytest
import torch

# Before JAX starts, here and in processes that tests start: what a test computes is
# little, and compiling it well would take far longer. By the older of its two ways of
# generating code for a CPU, in one piece, XLA needs a quarter of the time.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
os.environ.setdefault(
    'XLA_FLAGS',
    '--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1',
)

# The tensors here are tiny: more threads only fight over the cores.
torch.set_num_threads(1)

hypothesis.settings.register_profile(
    'project', deadline=None, derandomize=True, database=None, max_examples=40
)
hypothesis.settings.load_profile('project')


def pytest_collection_finish():
    """Takes what is imported by now out of the search for garbage: it stays."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
