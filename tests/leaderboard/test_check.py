import json
import re
import subprocess
import sys

import pytest

from leaderboard.check import check_entry
from leaderboard.contract import SIGNATURES
from leaderboard.layout import BASE_WORKLOADS, SEARCH_SPACE_FILE
from leaderboard.search_space import check_search_space
from tests.leaderboard import entries


def check_by_hand(folder, files):
    return check_entry(entries.by_hand(folder, files), 'pytorch', 'self')


def check_space(folder, text):
    (folder / SEARCH_SPACE_FILE).write_text(text)
    return check_search_space(folder, 'external')


def test_a_minimal_entry_is_fine(tmp_path):
    assert check_by_hand(tmp_path, {}) == []


def test_all_kinds_of_checks_run(tmp_path):
    violations = check_by_hand(
        tmp_path,
        {
            'submission.py': 'import os, einops\nfrom . import helper\n',
            'helper.py': "import os\nos.environ['A'] = 'b'\n",
            'unused.py': '',
            'requirements.txt': 'torch==2.0\n',
            'tuning_search_space.json': '[]',
            'submission_info.yml': 'authors: nobody\n',
        },
    )
    rules = {violation.rule for violation in violations}
    assert rules == {
        'contract',
        'environment',
        'info',
        'layout',
        'requirements',
        'search_space',
    }
    assert violations == sorted(violations)


@pytest.mark.parametrize('name', SIGNATURES)
def test_a_missing_function_is_named(tmp_path, name):
    source = entries.SUBMISSION_SOURCE.replace(f'def {name}(', 'def other(')
    violations = check_by_hand(tmp_path, {'submission.py': source})
    # By another name `get_batch_size` may not read its table either.
    (violation,) = [v for v in violations if v.rule == 'contract']
    assert f'Function {name} is missing' in violation.message


def test_another_signature_is_shown(tmp_path):
    source = entries.SUBMISSION_SOURCE.replace('rng, train_state=None', 'seed')
    (violation,) = check_by_hand(tmp_path, {'submission.py': source})
    assert 'update_params takes' in violation.message
    assert 'seed); AlgoPerf passes' in violation.message


def test_every_base_workload_has_a_batch_size(tmp_path):
    source = entries.SUBMISSION_SOURCE.replace(
        '_BATCH_SIZES.get(workload_name, 128)', '_BATCH_SIZES[workload_name]'
    ).replace('512', '0')
    violations = check_by_hand(tmp_path, {'submission.py': source})
    assert len(violations) == len(BASE_WORKLOADS)
    by_workload = {v.message.split("'")[1]: v.message for v in violations}
    assert 'returned 0, not a positive' in by_workload['ogbg']
    assert 'KeyError' in by_workload['wmt']


@pytest.mark.parametrize(
    'statement', ['import algoperf', 'from leaderboard import check', '1 / 0']
)
def test_an_entry_is_imported_without_this_project(tmp_path, statement):
    source = f'{entries.SUBMISSION_SOURCE}\n{statement}\n'
    violations = check_by_hand(tmp_path, {'submission.py': source})
    messages = [v.message for v in violations if v.rule == 'contract']
    assert len(messages) == 1
    assert 'cannot be imported' in messages[0]
    assert ('ZeroDivisionError' if '/' in statement else 'not part') in messages[0]


@pytest.mark.parametrize(
    ('old', 'new', 'line', 'message'),
    [
        ('authors: "A. Author, B. Müller"', 'authors: ""', 3, "'authors' is empty"),
        ('version: "1.0"', 'version: 1.0', 5, 'put it in quotes'),
        ('"self-tuning"', '"self"', 6, "it has to be 'self-tuning'"),
        ('"PyTorch"', '"JAX"', 7, "it has to be 'PyTorch'"),
        ('"by_hand"', '"other"', 2, "it has to be 'by_hand'"),
        ('affiliations: ""\n', '', 1, "'affiliations' is missing"),
        ('affiliations:', 'affiliation:', 4, "Unknown field 'affiliation'"),
        ('"1.0"', '"1.0 # of 2"', 5, 'would be cut off'),
        ('"1.0"', '"1.0', 6, 'Not valid YAML'),
    ],
)
def test_submission_info(tmp_path, old, new, line, message):
    entry = entries.by_hand(tmp_path, {})
    path = entry / 'submission_info.yml'
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    violations = check_entry(entry, 'pytorch', 'self')
    assert any(message in v.message and v.line == line for v in violations), violations
    assert {(v.file, v.rule) for v in violations} == {('submission_info.yml', 'info')}


def test_missing_files_are_named(tmp_path):
    entry = entries.by_hand(tmp_path, {})
    for name in ('__init__.py', 'submission_info.yml'):
        (entry / name).unlink()
    files = [v.file for v in check_entry(entry, 'pytorch', 'self')]
    assert files == ['__init__.py', 'submission_info.yml']
    with pytest.raises(FileNotFoundError, match='no such folder'):
        check_entry(tmp_path / 'absent', 'pytorch', 'self')


@pytest.mark.parametrize(
    'name', ['submission.py', 'submission_info.yml', 'requirements.txt']
)
def test_files_that_are_no_text(tmp_path, name):
    entry = entries.by_hand(tmp_path, {})
    (entry / name).write_bytes(b'# one\n# two\n# \xff')
    (violation,) = check_entry(entry, 'pytorch', 'self')
    assert (violation.file, violation.line, violation.rule) == (name, 3, 'layout')
    assert 'UTF-8' in violation.message


POINT = {'learning_rate': 0.1}


RANGE = {'min': 0.1, 'max': 1, 'scaling': 'log'}


@pytest.mark.parametrize(
    ('space', 'message'),
    [
        ([POINT] * 6, '1 to 5 points'),
        ([], 'the list is empty'),
        ({}, 'names no hyperparameter'),
        ([POINT, {**POINT, 'beta2': 0.9}], "point 1: .*not in point 0: .'beta2'"),
        ([1], 'point 0: must be a mapping'),
        (1, 'list of points or a mapping'),
        ({'learning_rate': 0.1}, "'learning_rate': must be either"),
        ({'learning_rate': {'min': 0.1, 'max': 1}}, r"missing: \['scaling'\]"),
        ({'learning_rate': {**RANGE, 'scaling': 'cubic'}}, "'scaling': must be one of"),
        ({'learning_rate': {**RANGE, 'min': 2}}, 'min 2.0 is above max 1.0'),
        ({'learning_rate': {**RANGE, 'min': 0}}, "'min': must be above 0 with log"),
        ({'learning_rate': {'feasible_points': []}}, 'at least one value'),
    ],
)
def test_search_spaces_that_do_not_fit(tmp_path, space, message):
    (violation,) = check_space(tmp_path, json.dumps(space))
    assert violation.file == SEARCH_SPACE_FILE
    assert re.search(message, violation.message)
    assert str(tmp_path) not in violation.message


@pytest.mark.parametrize(
    'space',
    [
        [POINT] * 5,
        # Entries of others have hyperparameters of their own.
        [{'sharpness': 'high'}],
        {'learning_rate': RANGE, 'sharpness': {'feasible_points': ['high', 'low']}},
    ],
)
def test_search_spaces_that_fit(tmp_path, space):
    assert check_space(tmp_path, json.dumps(space)) == []


def test_search_spaces_and_rulesets(tmp_path):
    (violation,) = check_space(tmp_path, '[\n{]')
    assert violation.line == 2
    assert 'is not valid JSON' in violation.message
    (tmp_path / SEARCH_SPACE_FILE).unlink()
    (violation,) = check_search_space(tmp_path, 'external')
    assert 'needs a search space' in violation.message
    (violation,) = check_by_hand(tmp_path, {SEARCH_SPACE_FILE: '[{}]'})
    assert 'remove it' in violation.message


@pytest.mark.parametrize(
    ('text', 'line', 'message'),
    [
        ('einops\ntorch==2.13\n', 2, 'torch: AlgoPerf pins it'),
        ('einops>=0.8\n', 1, 'einops: a comment has to say'),
        ('absl-py\n', 1, 'absl-py: AlgoPerf pins it'),
    ],
)
def test_requirements_that_break_rules(tmp_path, text, line, message):
    violations = check_by_hand(tmp_path, {'requirements.txt': text})
    assert any(message in v.message and v.line == line for v in violations)


def test_imports_need_a_requirement(tmp_path):
    source = f'def f():\n    import einops\n{entries.SUBMISSION_SOURCE}'
    entry = entries.by_hand(tmp_path, {'submission.py': source})
    (violation,) = check_entry(entry, 'pytorch', 'self')
    assert (violation.file, violation.line) == ('submission.py', 2)
    assert violation.rule == 'requirements'
    for text in ('# Rearranges axes.\neinops>=0.8\n', 'einops  # Rearranges axes.\n'):
        (entry / 'requirements.txt').write_text(text)
        assert check_entry(entry, 'pytorch', 'self') == []


def test_the_command_reports_and_fails(tmp_path):
    entry = entries.by_hand(tmp_path, {'helper.py': ''})

    def run(entry=entry):
        flags = [f'--entry={entry}', '--framework=pytorch', '--ruleset=self']
        return subprocess.run(
            [sys.executable, '-m', 'leaderboard.check', *flags],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    done = run()
    assert done.returncode == 1
    assert done.stdout.startswith('helper.py:1: layout: ')
    (entry / 'helper.py').unlink()
    done = run()
    assert done.returncode == 0
    assert 'no violations' in done.stdout
    done = run(tmp_path / 'absent')
    assert done.returncode == 1
    assert done.stderr == f'Error: {tmp_path}/absent: there is no such folder.\n'
