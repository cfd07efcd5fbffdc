"""The folder of the submission works on its own, wherever it is copied."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

import submission

FOLDER = pathlib.Path(submission.__file__).parent
SCRIPT = pathlib.Path(__file__).with_name('standalone_run.py')


@pytest.mark.parametrize('package', ['entry', 'team.algorithm.kfac_entry'])
def test_a_copy_trains_without_the_rest_of_the_project(tmp_path, package):
    target = tmp_path.joinpath(*package.split('.'))
    shutil.copytree(
        FOLDER, target, ignore=shutil.ignore_patterns('__pycache__', '.*_cache')
    )
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    run = subprocess.run(
        [sys.executable, '-s', str(SCRIPT), str(tmp_path), package],
        cwd=tmp_path,
        env={**environment, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    modules = run.stdout.split()
    assert f'{package}.pytorch.layers' in modules
    roots = {name.split('.')[0] for name in modules}
    assert not roots & {'algoperf', 'workloads_overrides', 'experiments', 'submission'}
