import ast
import json
import subprocess
import sys

import pytest
import yaml

from leaderboard import export as export_module
from leaderboard.check import check_entry
from leaderboard.layout import FRAMEWORKS
from leaderboard.modules import needed_files
from tests.leaderboard import entries


@pytest.fixture
def package(tmp_path):
    def write(files):
        for name, text in files.items():
            path = tmp_path / 'package' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / 'package'

    return write


# Each ruleset once, as each check is a process that imports the framework; the command
# below checks one for the other ruleset.
@pytest.mark.parametrize('framework', entries.EACH_FRAMEWORK)
def test_an_entry_has_no_violations(tmp_path, framework):
    ruleset = {'pytorch': 'external', 'jax': 'self'}[framework]
    entry = entries.export(tmp_path, framework, ruleset)
    assert check_entry(entry, framework, ruleset) == []


@pytest.mark.parametrize('framework', entries.EACH_FRAMEWORK)
def test_an_entry_holds_one_framework(tmp_path, framework):
    entry = entries.export(tmp_path, framework)
    files = {path.relative_to(entry).as_posix() for path in entry.rglob('*.py')}
    assert {'__init__.py', 'submission.py', 'settings.py'} <= files
    assert any(name.startswith(f'{framework}/') for name in files)
    others = FRAMEWORKS.keys() - {framework}
    assert not any(name.startswith(f'{other}/') for name in files for other in others)
    assert not any(name.endswith('_submission.py') for name in files)


def test_the_submission_is_copied_as_it_is(tmp_path):
    entry = entries.export(tmp_path, 'pytorch')
    copies = {path: path.relative_to(entry).as_posix() for path in entry.rglob('*.py')}
    for path, name in copies.items():
        original = 'pytorch_submission.py' if name == 'submission.py' else name
        assert path.read_bytes() == (export_module.SUBMISSION / original).read_bytes()


def test_only_external_entries_have_a_search_space(tmp_path):
    external = entries.export(tmp_path / 'a', ruleset='external')
    own = entries.export(tmp_path / 'b', ruleset='self')
    points = json.loads((external / 'tuning_search_space.json').read_text())
    assert points == json.loads(export_module.SEARCH_SPACE.read_text())
    assert not (own / 'tuning_search_space.json').exists()


def test_info_is_one_line_a_field(tmp_path):
    entry = entries.export(tmp_path)
    text = (entry / 'submission_info.yml').read_text()
    fields = yaml.safe_load(text)
    assert len(text.splitlines()) == len(fields) == 8
    assert fields['authors'] == 'A. Author, B. Müller'
    assert (fields['framework'], fields['ruleset']) == ('PyTorch', 'external')
    assert fields['submission_folder'] == entry.name


def test_an_entry_is_replaced_only_when_asked(tmp_path):
    entry = entries.export(tmp_path)
    (entry / 'stale.py').touch()
    with pytest.raises(FileExistsError, match='--overwrite'):
        entries.export(tmp_path)
    entries.export(tmp_path, overwrite=True)
    assert not (entry / 'stale.py').exists()


def test_a_folder_that_is_no_entry_is_never_deleted(tmp_path):
    precious = tmp_path / 'kfac_entry' / 'thesis.tex'
    precious.parent.mkdir()
    precious.touch()
    with pytest.raises(FileExistsError, match=r'no submission_info\.yml'):
        entries.export(tmp_path, overwrite=True)
    assert precious.exists()


@pytest.mark.parametrize('name', ['K-FAC', '2nd_order', 'a/b', '', 'ünder'])
def test_names_that_are_no_modules(tmp_path, name):
    with pytest.raises(ValueError, match='cannot name an entry'):
        export_module.export_entry(
            entries.info(submission_folder=name), 'pytorch', 'self', tmp_path
        )


def test_a_missing_search_space_is_named(tmp_path):
    with pytest.raises(ValueError, match=r'absent\.json: there is no such file'):
        entries.export(tmp_path, search_space=tmp_path / 'absent.json')
    assert list(tmp_path.iterdir()) == []


POINT = {
    'learning_rate': 0.01,
    'one_minus_beta1': 0.1,
    'beta2': 0.9,
    'weight_decay': 0.1,
    'warmup_factor': 0.05,
}
BOX = {key: {'feasible_points': [value]} for key, value in POINT.items()}


@pytest.mark.parametrize(
    ('space', 'message'),
    [
        ([POINT, POINT | {'learning_rate': -1}], "point 1: .*'learning_rate' is -1.0"),
        ([POINT | {'dampng': 0.1}], "point 0: Unknown hyperparameter 'dampng'"),
        ([POINT | {'damping': 'high'}], "point 0: Hyperparameter 'damping' is 'high'"),
        (
            [{k: v for k, v in POINT.items() if k != 'beta2'}],
            "point 0: Missing hyperparameter 'beta2'",
        ),
        (BOX | {'learning_rate': {'min': 0.1, 'max': 1}}, 'missing: .*scaling'),
        # Drawn points would hardly ever hold the end itself.
        (
            BOX | {'beta2': {'min': 0.9, 'max': 1, 'scaling': 'linear'}},
            "the box: Hyperparameter 'beta2' is 1.0",
        ),
        (
            BOX | {'beta2': {'feasible_points': [0.9] * 50 + [2]}},
            "the box: Hyperparameter 'beta2' is 2.0",
        ),
        (
            BOX | {'inverse_interval': {'min': 1, 'max': 9, 'scaling': 'log'}},
            'has to be whole',
        ),
    ],
)
def test_search_spaces_that_the_submission_rejects(tmp_path, space, message):
    path = tmp_path / 'space.json'
    path.write_text(json.dumps(space))
    with pytest.raises(ValueError, match=rf'space\.json, .*{message}'):
        entries.export(tmp_path / 'entries', search_space=path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_box_that_the_submission_accepts(tmp_path):
    path = tmp_path / 'space.json'
    box = BOX | {'damping': {'min': 1e-3, 'max': 1, 'scaling': 'log'}}
    path.write_text(json.dumps(box))
    entry = entries.export(tmp_path, search_space=path)
    assert check_entry(entry, 'pytorch', 'external') == []


def test_needed_files_follows_every_kind_of_relative_import(package):
    folder = package(
        {
            '__init__.py': '',
            'main.py': 'from . import a\nfrom .sub import c, name\nimport os\n',
            'a.py': 'from .b import x\n',
            'b.py': 'def f():\n    from .late import y\n',
            'late.py': '',
            'unused.py': 'from .also_unused import z\n',
            'also_unused.py': '',
            'sub/__init__.py': 'name = 1\n',
            'sub/c.py': 'from ..d import x\nfrom .deep.e import y\n',
            'sub/unused.py': '',
            'sub/deep/__init__.py': '',
            'sub/deep/e.py': 'from .. import f\n',
            'sub/f.py': '',
            'd.py': '',
        }
    )
    needed = needed_files(folder, 'main.py')
    assert needed == sorted(needed)
    written = {path.relative_to(folder).as_posix() for path in folder.rglob('*.py')}
    assert written - set(needed) == {'unused.py', 'also_unused.py', 'sub/unused.py'}


def test_imports_of_what_is_not_there(package):
    folder = package({'__init__.py': '', 'main.py': 'from .absent import x\n'})
    with pytest.raises(FileNotFoundError, match=r'absent\.py'):
        needed_files(folder, 'main.py')
    package({'main.py': '\nfrom ..outside import x\n'})
    with pytest.raises(ValueError, match=r'main\.py:2: .*self-contained'):
        needed_files(folder, 'main.py')


def test_the_command_writes_and_checks(tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, '-m', 'leaderboard.export', *arguments],
            cwd=export_module.SUBMISSION.parent,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    flags = [
        '--framework=pytorch',
        '--ruleset=self',
        '--name=kfac_reduce',
        f'--output_dir={tmp_path}',
    ]
    done = run(*flags)
    assert done.returncode == 0, done.stderr
    assert 'submissions/self_tuning/kfac_reduce/' in done.stdout
    ast.parse((tmp_path / 'kfac_reduce' / 'submission.py').read_text())
    again = run(*flags)
    assert again.returncode == 1
    assert '--overwrite' in again.stderr
    assert 'Traceback' not in again.stderr
