"""The folder of the submission works on its own, wherever it is copied."""

import os
import pathlib
import shutil
import subprocess
import sys

import submission

FOLDER = pathlib.Path(submission.__file__).parent
SCRIPT = pathlib.Path(__file__).with_name('standalone_run.py')


def test_a_copy_trains_without_the_rest_of_the_project(tmp_path):
    package = 'team.algorithm.kfac_entry'
    target = tmp_path.joinpath(*package.split('.'))
    shutil.copytree(
        FOLDER, target, ignore=shutil.ignore_patterns('__pycache__', '.*_cache')
    )
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    run = subprocess.run(
        [sys.executable, '-s', str(SCRIPT), str(tmp_path), package],
        cwd=tmp_path,
        env={**environment, 'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    modules = run.stdout.split()
    assert f'{package}.jax.layers' in modules
    assert f'{package}.pytorch' not in modules
    roots = {name.split('.')[0] for name in modules}
    forbidden = {
        'algoperf',
        'workloads_overrides',
        'experiments',
        'submission',
        'torch',
    }
    assert not roots & forbidden
