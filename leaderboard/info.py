"""`submission_info.yml`, the entry's line on the leaderboard.

The leaderboard takes the file from the description of the pull request, where a
workflow strips each line's indentation and all from `#` on before it parses the rest.
So every field is one line, quoted, without `#`.
"""

import dataclasses
import json
import pathlib
import re

import yaml

from leaderboard.layout import FRAMEWORKS, INFO_FILE, RULESETS
from leaderboard.violation import Violation

# Without these the leaderboard refuses the pull request.
_MAY_NOT_BE_EMPTY = ('submission_name', 'submission_folder', 'authors', 'ruleset')
_FOLDER_NAME = re.compile(r'[a-z][a-z0-9_]*')


@dataclasses.dataclass(frozen=True)
class SubmissionInfo:
    """The fields of `submission_info.yml`, in its order.

    Attributes:
      submission_name: As it will appear on the leaderboard.
      submission_folder: Name of the entry's folder.
      authors: Names, separated by commas.
      affiliations: Of the authors, separated by commas.
      version: Of the submission.
      ruleset: `external` or `self-tuning`.
      framework: `PyTorch` or `JAX`.
      description: Of the algorithm, short.
    """

    submission_name: str
    submission_folder: str
    authors: str
    affiliations: str
    version: str
    ruleset: str
    framework: str
    description: str

    def write(self, path: pathlib.Path) -> None:
        """Writes the file; a JSON string is a YAML string of one line."""
        lines = [
            f'{field}: {json.dumps(value, ensure_ascii=False)}\n'
            for field, value in dataclasses.asdict(self).items()
        ]
        path.write_text(''.join(lines), encoding='utf-8')


def check_folder_name(name: str) -> None:
    """Raises ValueError if an entry cannot have this name.

    The runner turns the path of the submission into a module's name.
    """
    if not _FOLDER_NAME.fullmatch(name):
        raise ValueError(
            f'{name!r} cannot name an entry: it takes lower-case letters, digits and '
            'underscores, a letter first.'
        )


def check_info(entry: pathlib.Path, framework: str, ruleset: str) -> list[Violation]:
    """Checks `submission_info.yml`: all fields there, filled and true.

    Args:
      entry: Folder of the entry.
      framework: Key of `layout.FRAMEWORKS`.
      ruleset: Key of `layout.RULESETS`.
    """
    path = entry / INFO_FILE
    if not path.is_file():
        return [Violation(INFO_FILE, 1, 'info', 'The file is missing.')]
    text = path.read_text(encoding='utf-8')
    try:
        fields = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = 1 if error.problem_mark is None else error.problem_mark.line + 1
        message = f'Not valid YAML: {error.problem}.'
        return [Violation(INFO_FILE, line, 'info', message)]
    if not isinstance(fields, dict):
        message = 'The file has to map field names to values.'
        return [Violation(INFO_FILE, 1, 'info', message)]
    known = [field.name for field in dataclasses.fields(SubmissionInfo)]
    expected = {
        'ruleset': RULESETS[ruleset].title,
        'framework': FRAMEWORKS[framework].title,
        'submission_folder': entry.name,
    }
    problems = [
        (name, f'Unknown field {name!r}; known: {", ".join(known)}.')
        for name in fields
        if name not in known
    ]
    for name in known:
        problem = _problem_of(name, fields, expected)
        if problem is not None:
            problems.append((name, problem))
    return [
        Violation(INFO_FILE, _line_of(name, text), 'info', message)
        for name, message in problems
    ]


def _problem_of(
    name: str, fields: dict[str, object], expected: dict[str, str]
) -> str | None:
    """Returns what is wrong with one field, None if it is fine."""
    if name not in fields:
        return f'Field {name!r} is missing.'
    value = fields[name]
    if not isinstance(value, str):
        return f'Field {name!r} is {value!r}; put it in quotes, it has to be text.'
    if name in _MAY_NOT_BE_EMPTY and not value.strip():
        return f'Field {name!r} is empty.'
    if '#' in value or '\n' in value.rstrip('\n'):
        return f'Field {name!r} has a # or several lines, which would be cut off.'
    if name in expected and value != expected[name]:
        return f'Field {name!r} is {value!r}; it has to be {expected[name]!r}.'
    return None


def _line_of(field: str, text: str) -> int:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith(f'{field}:'):
            return number
    return 1
