"""The number of devices that a batch is split over does not matter."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from .devices_run import results_of

ROOT = pathlib.Path(__file__).parents[3]


def _results(folder, n_devices, cases):
    file, flag = folder / f'{n_devices}.npz', '--xla_force_host_platform_device_count'
    run = subprocess.run(
        [sys.executable, '-m', 'tests.submission.jax.devices_run', str(file), *cases],
        cwd=ROOT,
        env={
            **os.environ,
            'JAX_PLATFORMS': 'cpu',
            'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} {flag}={n_devices}',
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
        ('tokens,reduce,spectral', 'graphs,expand,nadamw'),
        pytest.param(
            ('tokens,expand,nadamw', 'graphs,reduce,nadamw'), marks=pytest.mark.slow
        ),
    ],
    ids=' '.join,
)
@pytest.mark.parametrize('n_devices', [4, pytest.param(2, marks=pytest.mark.slow)])
def test_as_many_devices_give_the_parameters_of_one(tmp_path, n_devices, cases):
    if jax.devices() == jax.devices('cpu')[:1]:
        # Without a process of its own, which would import it all again.
        one = results_of(cases)
    else:
        one = _results(tmp_path, 1, cases)
    several = _results(tmp_path, n_devices, cases)
    assert (int(one.pop('devices')), int(several.pop('devices'))) == (1, n_devices)
    assert one.keys() == several.keys()
    # Of both models, trained and averaged.
    assert len(one) == 2 * (7 + 6)
    for name, expected in one.items():
        np.testing.assert_allclose(
            several[name], expected, rtol=1e-3, atol=1e-5, err_msg=name
        )
