"""`tuning_search_space.json`, which the external ruleset tunes over.

A search space is a list of points or a box, from which AlgoPerf draws points. Entries
may have any hyperparameters; those of this project's submission are checked as it
checks them itself.
"""

import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from leaderboard.layout import RULESETS, SEARCH_SPACE_FILE
from leaderboard.violation import Violation
from submission.settings import Settings
from workloads_overrides.runner.errors import RunnerError
from workloads_overrides.runner.search_space import load_search_space

# The external ruleset trains five points on each workload.
MAX_POINTS = 5


def check_search_space(entry: pathlib.Path, ruleset: str) -> list[Violation]:
    """Checks that the search space is there and fits, or is rightly absent.

    Args:
      entry: Folder of the entry.
      ruleset: Key of `layout.RULESETS`.
    """
    path = entry / SEARCH_SPACE_FILE
    if not RULESETS[ruleset].has_search_space:
        if path.exists():
            return [_violation('A self-tuning entry has no search space; remove it.')]
        return []
    if not path.is_file():
        return [_violation('The external ruleset needs a search space.')]
    try:
        # One more than is allowed, to tell whether there are too many.
        points = load_search_space(path, MAX_POINTS + 1)
    except RunnerError as error:
        cause = error.__cause__
        line = cause.lineno if isinstance(cause, json.JSONDecodeError) else 1
        return [_violation(str(error).replace(str(path), path.name), line)]
    if len(points) > MAX_POINTS and not _is_box(path):
        return [
            _violation(f'The ruleset takes 1 to {MAX_POINTS} points; leave some out.')
        ]
    return []


def check_hyperparameters(path: pathlib.Path) -> None:
    """Checks that this project's submission accepts all points of a search space.

    Of a box these are the points that AlgoPerf may draw: some that were drawn, and
    every end and every feasible point.

    Args:
      path: The search space.

    Raises:
      ValueError: If the file is no search space, or the submission would end a trial
        of it before its first step; the message names file and point.
    """
    points = [point._asdict() for point in load_search_space(path, MAX_POINTS)]
    is_box = _is_box(path)
    if is_box:
        points += _ends(json.loads(path.read_text(encoding='utf-8')))
    for number, point in enumerate(points):
        try:
            Settings.from_hyperparameters(point)
        except (TypeError, ValueError) as error:
            place = 'a point of the box' if is_box else f'point {number}'
            raise ValueError(f'Search space {path}, {place}: {error}') from error


def _is_box(path: pathlib.Path) -> bool:
    return isinstance(json.loads(path.read_text(encoding='utf-8')), dict)


def _ends(box: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yields points that hold each end and each feasible point at least once."""
    values = {
        name: entry.get('feasible_points') or [entry['min'], entry['max']]
        for name, entry in box.items()
    }
    longest = max(map(len, values.values()))
    columns = [itertools.islice(itertools.cycle(v), longest) for v in values.values()]
    for row in zip(*columns, strict=True):
        yield dict(zip(values, row, strict=True))


def _violation(message: str, line: int = 1) -> Violation:
    return Violation(SEARCH_SPACE_FILE, line, 'search_space', message)
