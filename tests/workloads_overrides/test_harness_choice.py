import os
import subprocess
import sys

import pytest

from workloads_overrides import harness_choice


@pytest.mark.parametrize(
    'given',
    [
        ['--harness=algoperf', '--workload=ogbg', '--rng_seed', '3'],
        ['--workload=ogbg', '--harness', 'algoperf', '--rng_seed', '3'],
        ['--workload=ogbg', '--rng_seed', '3', '-harness=algoperf'],
    ],
)
def test_the_flag_is_taken_out_and_the_others_stay(given):
    assert harness_choice.flags_for_algoperf(given) == [
        '--workload=ogbg',
        '--rng_seed',
        '3',
    ]


@pytest.mark.parametrize(
    'given', [[], ['--workload=ogbg'], ['--harness=builtin'], ['--harnes=algoperf']]
)
def test_otherwise_nothing_is_handed_over(given, monkeypatch):
    monkeypatch.setattr(os, 'execv', lambda *_: pytest.fail('handed over'))
    harness_choice.hand_over_if_asked(given)


def test_the_command_becomes_algoperfs_runner_or_says_what_is_missing(tmp_path):
    # An empty folder in front hides an AlgoPerf that is installed.
    (tmp_path / 'submission_runner.py').write_text(
        'raise ModuleNotFoundError("No module named \'algoperf\'")'
    )
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'workloads_overrides.submission_runner',
            '--harness=algoperf',
        ],
        env={**os.environ, 'PYTHONPATH': str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "AlgoPerf's runner cannot be imported" in done.stderr
    assert '--harness=builtin' in done.stderr


def test_an_unknown_harness_is_an_error_that_names_the_two():
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'workloads_overrides.submission_runner',
            '--harness=algoprf',
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert '<builtin|algoperf>' in done.stdout + done.stderr
