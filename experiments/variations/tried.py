"""Named variations of the base point, from a JSON file."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.compare import LABELS
from experiments.variations.points import METHODS, Point
from submission.settings import Settings

TRIED = pathlib.Path(__file__).parent / 'tried.json'
BASE = 'base'
# Hyperparameters that only one approximation reads.
_READ_BY = {'reduce_normalisation': 'reduce', 'statistics_stride': 'expand'}


@dataclasses.dataclass(frozen=True)
class Variation:
    """What is done differently.

    Attributes:
      name: A name, unique in the file.
      description: What it tests.
      changes: Hyperparameters that differ from the base point.
    """

    name: str
    description: str
    changes: Mapping[str, Any]

    def applies_to(self, approximation: str) -> bool:
        """Whether it makes a difference to an approximation."""
        return all(
            _READ_BY.get(key, approximation) == approximation for key in self.changes
        )

    def point(self, base: Mapping[str, Any]) -> Point:
        """Returns the base point with the changes."""
        method = METHODS[base['approximation']]
        return Point(f'{LABELS[method]}, {self.name}', {**base, **self.changes})


_KEYS = [field.name for field in dataclasses.fields(Variation)]


def load(
    path: pathlib.Path, bases: Mapping[str, Mapping[str, Any]]
) -> dict[str, Variation]:
    """Reads the variations, checks them, and puts the base point before them.

    Args:
      path: The file: a list of objects with a variation's name, description, changes.
      bases: Approximation to base point.

    Returns:
      Name to variation.

    Raises:
      ValueError: If the file, or one of its entries, is not as it has to be; says
        which entry and what to do.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f'{path} cannot be read as JSON: {error}') from error
    if not isinstance(content, list) or not content:
        raise ValueError(f'{path} has to be a list of at least one variation.')
    variations = {BASE: Variation(BASE, 'first point of the search space', {})}
    for number, entry in enumerate(content, start=1):
        try:
            variation = _variation(entry)
            if variation.name in variations:
                raise ValueError('there is one of this name already; rename it.')
            _check_changes(variation, bases)
        except (ValueError, TypeError) as error:
            raise ValueError(f'{path}, {_place(number, entry)}: {error}') from error
        variations[variation.name] = variation
    return variations


def _place(number: int, entry: Any) -> str:
    name = entry.get('name') if isinstance(entry, dict) else None
    return f'entry {number}' if name is None else f'entry {number} ({name!r})'


def _variation(entry: Any) -> Variation:
    if not isinstance(entry, dict) or sorted(entry) != sorted(_KEYS):
        raise ValueError(f'has to be an object with the keys {", ".join(_KEYS)}.')
    for key in ('name', 'description'):
        if not isinstance(entry[key], str) or not entry[key] or '|' in entry[key]:
            # A bar would end the cell of the table.
            raise ValueError(f'{key!r} has to be a text, not empty and without |.')
    if not isinstance(entry['changes'], dict) or not entry['changes']:
        raise ValueError("'changes' has to map hyperparameters to values.")
    return Variation(**entry)


def _check_changes(
    variation: Variation, bases: Mapping[str, Mapping[str, Any]]
) -> None:
    for base in bases.values():
        changed = Settings.from_hyperparameters({**base, **variation.changes})
        if changed == Settings.from_hyperparameters(base):
            raise ValueError(
                "'changes' are what the base point has already; change something."
            )


def points(
    variations: Sequence[Variation], bases: Mapping[str, Mapping[str, Any]]
) -> list[Point]:
    """Returns the points to train: each variation of each base that it applies to."""
    return [
        variation.point(base)
        for approximation, base in bases.items()
        for variation in variations
        if variation.applies_to(approximation)
    ]
