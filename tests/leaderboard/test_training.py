"""An exported entry trains where this project is not there."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from leaderboard.layout import FRAMEWORKS, RULESETS
from tests.leaderboard import entries

# With and without hyperparameters, once each.
RULESET = {'pytorch': 'external', 'jax': 'self'}
SCRIPT = pathlib.Path(__file__).with_name('train_entry.py')


@pytest.mark.parametrize('framework', entries.EACH_FRAMEWORK)
def test_an_entry_trains_two_steps(tmp_path, framework):
    ruleset = RULESET[framework]
    # The depth that entries have in the repository of the leaderboard.
    package = f'submissions.{RULESETS[ruleset].folder}'
    entry = entries.export(tmp_path.joinpath(*package.split('.')), framework, ruleset)
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    name = f'{package}.{entry.name}'
    run = subprocess.run(
        [sys.executable, '-s', '-P', str(SCRIPT), str(tmp_path), name, framework],
        cwd=tmp_path,
        env={**environment, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    first, second, third = report['losses']
    # The warm-up begins with a learning rate of next to nothing.
    assert first == pytest.approx(second, rel=1e-3)
    assert third < second
    modules = set(report['modules'])
    assert f'{name}.{framework}.layers' in modules
    others = {o for o in FRAMEWORKS if o != framework}
    assert not any(m.startswith(f'{name}.{o}') for m in modules for o in others)
