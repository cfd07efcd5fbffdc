"""`requirements.txt`: what the entry needs beyond what AlgoPerf installs."""

import ast
import pathlib
import re
import sys
from collections.abc import Mapping

from leaderboard.layout import (
    FOREIGN_PACKAGES,
    FRAMEWORKS,
    REQUIREMENTS_FILE,
    SHARED_PACKAGES,
    provided_distributions,
)
from leaderboard.rules import imported_modules
from leaderboard.violation import Violation

NOTHING_MORE = '# Nothing beyond the packages that AlgoPerf installs for {title}.\n'

_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]*')


def check_requirements(
    entry: pathlib.Path, sources: Mapping[str, str], framework: str
) -> list[Violation]:
    """Checks that every import is accounted for, and that no pin is touched.

    AlgoPerf pins the packages it installs, so that all submissions run on the same.
    Others need a comment that says why, and a line here.

    Args:
      entry: Folder of the entry.
      sources: Path within the entry to text, of its Python files.
      framework: Key of `layout.FRAMEWORKS`.
    """
    path = entry / REQUIREMENTS_FILE
    lines = path.read_text(encoding='utf-8').splitlines() if path.is_file() else []
    violations, listed = [], set()
    for number, line in enumerate(lines, start=1):
        match = _NAME.match(line.partition('#')[0].strip())
        if match is None:
            continue
        name = re.sub(r'[-_.]+', '-', match.group()).lower()
        listed.add(name)
        if name in provided_distributions():
            message = f'{name}: AlgoPerf pins it; remove the line.'
            violations.append(
                Violation(REQUIREMENTS_FILE, number, 'requirements', message)
            )
        elif '#' not in line and not _follows_comment(lines, number):
            message = f'{name}: a comment has to say what it is needed for.'
            violations.append(
                Violation(REQUIREMENTS_FILE, number, 'requirements', message)
            )
    # The other framework and foreign packages have a rule of their own.
    known = SHARED_PACKAGES.union(
        FOREIGN_PACKAGES,
        sys.stdlib_module_names,
        *(f.packages for f in FRAMEWORKS.values()),
    )
    for file, source in sources.items():
        for number, module in _imports(source):
            root = module.split('.')[0]
            if root not in known and root.lower().replace('_', '-') not in listed:
                message = (
                    f'{root}: AlgoPerf does not install it for '
                    f'{FRAMEWORKS[framework].title}; name it in {REQUIREMENTS_FILE}.'
                )
                violations.append(Violation(file, number, 'requirements', message))
    return violations


def _follows_comment(lines: list[str], number: int) -> bool:
    return number >= 2 and lines[number - 2].lstrip().startswith('#')


def _imports(source: str) -> list[tuple[int, str]]:
    try:
        return list(imported_modules(ast.parse(source)))
    except SyntaxError:
        # Reported by the rules for sources.
        return []
