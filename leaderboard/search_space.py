"""`tuning_search_space.json`, which the external ruleset tunes over."""

import json
import pathlib

from leaderboard.layout import RULESETS, SEARCH_SPACE_FILE
from leaderboard.violation import Violation

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
        space = json.loads(path.read_text(encoding='utf-8'))
    except json.JSONDecodeError as error:
        return [_violation(f'Not valid JSON: {error.msg}.', error.lineno)]
    if isinstance(space, dict):
        # A box, from which AlgoPerf draws the points itself.
        return [] if space else [_violation('The search space is empty.')]
    if not isinstance(space, list) or not all(isinstance(p, dict) for p in space):
        return [_violation('A search space is a list of points or a box (an object).')]
    if not 1 <= len(space) <= MAX_POINTS:
        message = f'{len(space)} points; the ruleset takes 1 to {MAX_POINTS}.'
        return [_violation(message)]
    return [
        _violation(
            f'Point {number} has other keys than point 1: '
            f'{", ".join(sorted(point.keys() ^ space[0].keys()))}.'
        )
        for number, point in enumerate(space, start=1)
        if point.keys() != space[0].keys()
    ]


def _violation(message: str, line: int = 1) -> Violation:
    return Violation(SEARCH_SPACE_FILE, line, 'search_space', message)
