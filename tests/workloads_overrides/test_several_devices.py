import json
import os
import subprocess
import sys

import jax
import pytest

from tests.workloads_overrides.several_devices import summaries


def run(num_devices, path):
    flag = f'--xla_force_host_platform_device_count={num_devices}'
    environment = {**os.environ, 'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} {flag}'}
    module = 'tests.workloads_overrides.several_devices'
    done = subprocess.run(
        [sys.executable, '-m', module, str(path)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(path.read_text())


def test_two_devices_compute_what_one_does(tmp_path):
    if jax.devices() == jax.devices('cpu')[:1]:
        # Without a process of its own, which would import it all again.
        one = summaries()
    else:
        one = run(1, tmp_path / '1.json')
    two = run(2, tmp_path / '2.json')
    assert (one.pop('devices'), two.pop('devices')) == (1, 2)
    for name, expected in one.items():
        for key, values in expected.items():
            assert two[name][key] == pytest.approx(values, rel=1e-3, abs=1e-6), key
