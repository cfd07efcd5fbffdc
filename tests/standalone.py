"""Trains with a submission where the rest of this project cannot be imported.

Tests call `train`, which starts this file as the program that runs the script.
"""

import json
import os
import pathlib
import runpy
import subprocess
import sys

SCRIPT = pathlib.Path(__file__).with_name('train_alone.py')
PROJECT = (
    *('algoperf', 'experiments', 'leaderboard'),
    *('submission', 'tests', 'workloads_overrides'),
)


class _Unavailable:
    """Refuses to find modules."""

    def __init__(self, names):
        self._names = names

    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in self._names:
            raise ModuleNotFoundError(f'{name} must not be imported', name=name)


def train(folder, module, framework, also_without=()):
    """Takes two steps with a submission; returns the report of `train_alone`.

    Args:
      folder: Where the submission is; what it imports has to be here or installed.
      module: Its dotted name in the folder.
      framework: `'pytorch'` or `'jax'`.
      also_without: Further packages that cannot be imported.
    """
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    names = ','.join([*PROJECT, *also_without])
    arguments = [str(SCRIPT), str(folder), module, framework]
    done = subprocess.run(
        [sys.executable, '-s', '-P', __file__, names, *arguments],
        cwd=folder,
        env={**environment, 'OMP_NUM_THREADS': '1', 'JAX_PLATFORMS': 'cpu'},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def main():
    names, script, *arguments = sys.argv[1:]
    sys.meta_path.insert(0, _Unavailable(names.split(',')))
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name='__main__')


if __name__ == '__main__':
    main()
