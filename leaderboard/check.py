r"""Checks an entry for the leaderboard, whoever wrote it.

Example::

    python -m leaderboard.check --entry=entries/kfac \
        --framework=pytorch --ruleset=external

Prints a line for each violation, with its file and line, and exits with status 1 if
there are any.
"""

import pathlib
import sys
from collections.abc import Iterator, Sequence

from absl import flags

from experiments import command
from leaderboard import contract, info, requirements, rules, search_space
from leaderboard.layout import (
    FRAMEWORKS,
    INFO_FILE,
    REQUIREMENTS_FILE,
    RULESETS,
    SEARCH_SPACE_FILE,
    SUBMISSION_FILE,
)
from leaderboard.modules import needed_files
from leaderboard.violation import Violation


def check_entry(entry: pathlib.Path, framework: str, ruleset: str) -> list[Violation]:
    """Checks the files of an entry, then imports it from where it lies.

    Args:
      entry: Folder of the entry.
      framework: `pytorch` or `jax`.
      ruleset: `external` or `self`.

    Returns:
      What is wrong, sorted by file and line; empty if the entry is fine.

    Raises:
      FileNotFoundError: If there is no such folder.
    """
    if not entry.is_dir():
        raise FileNotFoundError(f'{entry}: there is no such folder.')
    files = _files(entry)
    unreadable = list(_not_text(entry, files))
    if unreadable:
        # The other checks read these files.
        return unreadable
    sources = {
        file: (entry / file).read_text(encoding='utf-8')
        for file in files
        if file.endswith('.py')
    }
    violations = _check_layout(entry, files)
    for file, source in sources.items():
        violations += rules.check_source(file, source, framework)
    violations += requirements.check_requirements(entry, sources, framework)
    violations += info.check_info(entry, framework, ruleset)
    violations += search_space.check_search_space(entry, ruleset)
    if SUBMISSION_FILE in files:
        violations += contract.check_contract(entry)
    return sorted(violations)


def _files(entry: pathlib.Path) -> list[str]:
    return sorted(
        path.relative_to(entry).as_posix()
        for path in entry.rglob('*')
        if path.is_file() and '__pycache__' not in path.parts
    )


def _not_text(entry: pathlib.Path, files: Sequence[str]) -> Iterator[Violation]:
    """Finds files that are not text in UTF-8 though they have to be."""
    for file in files:
        if file.endswith('.py') or file in (INFO_FILE, REQUIREMENTS_FILE):
            content = (entry / file).read_bytes()
            try:
                content.decode('utf-8')
            except UnicodeDecodeError as error:
                line = content[: error.start].count(b'\n') + 1
                message = 'Not text in UTF-8; save it as such and check again.'
                yield Violation(file, line, 'layout', message)


def _check_layout(entry: pathlib.Path, files: Sequence[str]) -> list[Violation]:
    """Finds files that are missing, and files that nothing needs."""
    missing = [name for name in ('__init__.py', SUBMISSION_FILE) if name not in files]
    if missing:
        return [Violation(f, 1, 'layout', 'The file is missing.') for f in missing]
    try:
        needed = needed_files(entry, SUBMISSION_FILE)
    except (FileNotFoundError, ValueError) as error:
        return [Violation(SUBMISSION_FILE, 1, 'layout', str(error))]
    except SyntaxError:
        # Reported, with file and line, by the rules for sources.
        return []
    allowed = {*needed, INFO_FILE, REQUIREMENTS_FILE, SEARCH_SPACE_FILE}
    message = f'{SUBMISSION_FILE} does not need it; remove it.'
    return [Violation(f, 1, 'layout', message) for f in files if f not in allowed]


def _define_flags() -> None:
    flags.DEFINE_string('entry', None, 'Folder of the entry.', required=True)
    flags.DEFINE_enum('framework', None, list(FRAMEWORKS), 'Framework.', required=True)
    flags.DEFINE_enum('ruleset', None, list(RULESETS), 'Ruleset.', required=True)


def main() -> None:
    """Checks the entry and prints what is wrong."""
    entry = pathlib.Path(flags.FLAGS.entry).expanduser().absolute()
    violations = check_entry(entry, flags.FLAGS.framework, flags.FLAGS.ruleset)
    for violation in violations:
        print(violation)
    if violations:
        sys.exit(1)
    print(f'{entry}: no violations')


if __name__ == '__main__':
    _define_flags()
    command.run(main)
