"""Hyperparameters from a search space in a JSON file.

The file holds either a list of points, each a mapping from name to value, or a
box: a mapping from name to a range (`min`, `max`, `scaling`) or to a list of
`feasible_points`. A box is sampled quasi-randomly.
"""

import collections
import json
import keyword
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import qmc  # type: ignore[import-untyped]

from workloads_overrides.runner.errors import RunnerError

_RANGE_KEYS = {'min', 'max', 'scaling'}
_SCALINGS = ('linear', 'log')
_BOX_ENTRY = (
    'either {"min": number, "max": number, "scaling": "linear" or "log"} or '
    '{"feasible_points": [values]}'
)


def load_search_space(
    path: str | os.PathLike[str], num_trials: int, seed: int = 0
) -> list[Any]:
    """Reads a search space and returns the points to train.

    The points of a box depend on the file and `seed` alone, and the first points
    do not depend on `num_trials`, so the trials of a study can be run one by one.

    Args:
        path: Path of the JSON file.
        num_trials: How many points to return; a list of points that is shorter
            gives all it has.
        seed: Seed of the quasi-random sequence of a box.

    Returns:
        Named tuples `Hyperparameters`.

    Raises:
        RunnerError: If the file is missing or says something that is not allowed;
            the message names the file, the place and what is allowed.
    """
    where = f'Search space {os.fspath(path)}'
    content = _read_json(path, where)
    if isinstance(content, list):
        points = _check_points(content, where)[:num_trials]
    elif isinstance(content, dict):
        points = _sample_box(content, where, num_trials, seed)
    else:
        raise RunnerError(
            f'{where}: must be a list of points or a mapping from hyperparameter to '
            f'range, got {_shown(content)}.'
        )
    return [as_hyperparameters(point) for point in points]


def as_hyperparameters(values: dict[str, Any]) -> Any:
    """Returns the named tuple that a submission gets as its hyperparameters."""
    return collections.namedtuple('Hyperparameters', list(values))(**values)


def _read_json(path: str | os.PathLike[str], where: str) -> Any:
    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        for name in names:
            if names.count(name) > 1:
                raise RunnerError(
                    f'{where}: {name!r} occurs twice in the same place; each name '
                    'is allowed once.'
                )
        return dict(pairs)

    try:
        with open(path, encoding='utf-8') as file:
            return json.load(file, object_pairs_hook=without_duplicates)
    except FileNotFoundError as error:
        raise RunnerError(f'{where}: there is no such file.') from error
    except OSError as error:
        # A folder, say, or a file that may not be read.
        raise RunnerError(f'{where}: cannot be read: {error.strerror}.') from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunnerError(f'{where}: is not valid JSON: {error}.') from error


def _check_names(names: Sequence[str], where: str) -> None:
    for name in names:
        if not name.isidentifier() or name.startswith('_') or keyword.iskeyword(name):
            raise RunnerError(
                f'{where}: {name!r} cannot be a hyperparameter; a name has letters, '
                'digits and underscores, starts with a letter and is not a Python '
                'keyword.'
            )


def _check_points(points: list[Any], where: str) -> list[dict[str, Any]]:
    if not points:
        raise RunnerError(f'{where}: the list is empty; it needs at least one point.')
    for index, point in enumerate(points):
        place = f'{where}, point {index}'
        if not isinstance(point, dict) or not point:
            raise RunnerError(
                f'{place}: must be a mapping from hyperparameter to value, got '
                f'{_shown(point)}.'
            )
        _check_names(list(point), place)
        missing = sorted(points[0].keys() - point.keys())
        extra = sorted(point.keys() - points[0].keys())
        if missing or extra:
            raise RunnerError(
                f'{place}: all points must have the names of point 0; missing: '
                f'{missing}, not in point 0: {extra}.'
            )
        for name, value in point.items():
            _check_value(value, f'{place}, {name!r}')
    return points


def _check_value(value: Any, place: str) -> None:
    is_allowed = value is None or isinstance(value, bool | int | float | str)
    if not is_allowed or (isinstance(value, float) and not math.isfinite(value)):
        raise RunnerError(
            f'{place}: must be a finite number, a string, true, false or null, got '
            f'{_shown(value)}.'
        )


def _sample_box(
    box: dict[str, Any], where: str, num_trials: int, seed: int
) -> list[dict[str, Any]]:
    if not box:
        raise RunnerError(f'{where}: names no hyperparameter; it needs at least one.')
    _check_names(list(box), where)
    scales = {name: _scale(entry, f'{where}, {name!r}') for name, entry in box.items()}
    sampler = qmc.Halton(len(scales), scramble=True, seed=np.random.default_rng(seed))
    return [
        {
            name: scale(float(u))
            for (name, scale), u in zip(scales.items(), row, strict=True)
        }
        for row in sampler.random(num_trials)
    ]


def _scale(entry: Any, place: str) -> Callable[[float], Any]:
    """Returns the map from [0, 1) to the values of one hyperparameter."""
    if not isinstance(entry, dict):
        raise RunnerError(f'{place}: must be {_BOX_ENTRY}, got {_shown(entry)}.')
    if 'feasible_points' in entry:
        return _feasible_points_scale(entry, place)
    return _range_scale(entry, place)


def _feasible_points_scale(entry: dict[str, Any], place: str) -> Callable[[float], Any]:
    extra = sorted(entry.keys() - {'feasible_points'})
    if extra:
        raise RunnerError(
            f'{place}: feasible_points stands alone, but there is also {extra}.'
        )
    points = entry['feasible_points']
    if not isinstance(points, list) or not points:
        raise RunnerError(
            f'{place}, feasible_points: must be a list with at least one value, got '
            f'{_shown(points)}.'
        )
    for index, value in enumerate(points):
        _check_value(value, f'{place}, feasible_points[{index}]')
    return lambda u: points[int(u * len(points))]


def _range_scale(entry: dict[str, Any], place: str) -> Callable[[float], float]:
    missing = sorted(_RANGE_KEYS - entry.keys())
    extra = sorted(entry.keys() - _RANGE_KEYS)
    if missing or extra:
        raise RunnerError(
            f'{place}: must be {_BOX_ENTRY}; missing: {missing}, not allowed: {extra}.'
        )
    for key in ('min', 'max'):
        value = entry[key]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise RunnerError(
                f'{place}, {key!r}: must be a finite number, got {_shown(value)}.'
            )
    low, high, scaling = float(entry['min']), float(entry['max']), entry['scaling']
    if scaling not in _SCALINGS:
        raise RunnerError(
            f"{place}, 'scaling': must be one of {list(_SCALINGS)}, got "
            f'{_shown(scaling)}.'
        )
    if low > high:
        raise RunnerError(f'{place}: min {low} is above max {high}.')
    if scaling == 'linear':
        # Written as a mean of the two ends, which cannot overflow.
        return lambda u: min(max(low * (1.0 - u) + high * u, low), high)
    if low <= 0:
        raise RunnerError(
            f"{place}, 'min': must be above 0 with log scaling, got {low}."
        )
    log_low, log_high = math.log(low), math.log(high)
    # Rounding in log and exp may step over an end.
    return lambda u: min(max(math.exp(log_low * (1.0 - u) + log_high * u), low), high)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f'{text[:57]}...'
