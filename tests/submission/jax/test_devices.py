"""The number of devices that a batch is split over does not matter."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[3]


def _results(folder, n_devices, cases):
    file = folder / f'{n_devices}.npz'
    run = subprocess.run(
        [sys.executable, '-m', 'tests.submission.jax.devices_run', str(file), *cases],
        cwd=ROOT,
        env={
            **os.environ,
            'JAX_PLATFORMS': 'cpu',
            # Most of the time goes into compilation.
            'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
            'XLA_FLAGS': f'--xla_force_host_platform_device_count={n_devices}',
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    with np.load(file) as found:
        return dict(found)


@pytest.mark.parametrize(
    'cases',
    [
        ('tokens,reduce', 'graphs,expand'),
        pytest.param(('tokens,expand', 'graphs,reduce'), marks=pytest.mark.slow),
    ],
    ids=' '.join,
)
def test_same_parameters_on_one_two_and_four_devices(tmp_path, cases):
    one, two, four = (_results(tmp_path, n, cases) for n in (1, 2, 4))
    assert [int(found.pop('devices')) for found in (one, two, four)] == [1, 2, 4]
    assert one.keys() == two.keys() == four.keys()
    assert len(one) == 7 + 6
    for name, expected in one.items():
        for found in (two, four):
            np.testing.assert_allclose(
                found[name], expected, rtol=1e-3, atol=1e-5, err_msg=name
            )
