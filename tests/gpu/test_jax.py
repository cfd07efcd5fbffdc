"""On a GPU the JAX submission computes what it does on a CPU."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.gpu


def _has_gpu():
    try:
        return bool(jax.devices('gpu'))
    except RuntimeError:
        return False


def _started_on(platform, path):
    """A process keeps to the platform that it started with."""
    environment = {
        **os.environ,
        'JAX_PLATFORMS': platform,
        'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
    }
    command = [sys.executable, '-m', 'tests.gpu.jax_steps', str(path)]
    return subprocess.Popen(command, env=environment)


def test_parameters_after_training_are_those_of_a_cpu(tmp_path):
    if not _has_gpu():
        pytest.skip('JAX sees no GPU.')
    paths = {platform: tmp_path / f'{platform}.npz' for platform in ('cuda', 'cpu')}
    processes = [_started_on(platform, path) for platform, path in paths.items()]
    assert [process.wait() for process in processes] == [0, 0]
    on_gpu, on_cpu = np.load(paths['cuda']), np.load(paths['cpu'])
    assert str(on_gpu['backend']) == 'gpu'
    assert set(on_gpu.files) == set(on_cpu.files)
    errors = {
        name: np.linalg.norm(on_gpu[name] - on_cpu[name]) / np.linalg.norm(on_cpu[name])
        for name in set(on_cpu.files) - {'backend'}
    }
    assert max(errors.values()) < 1e-7, errors
