"""Files that are either wholly there or not at all."""

import contextlib
import json
import math
import os
import pathlib
from collections.abc import Iterator
from typing import IO, Any

from workloads_overrides.runner.errors import RunnerError


@contextlib.contextmanager
def atomic_writer(path: pathlib.Path, mode: str = 'w') -> Iterator[IO[Any]]:
    """Opens a temporary file that takes the place of `path` when all went well.

    Args:
        path: Path of the file to write.
        mode: `'w'` for text, `'wb'` for bytes.
    """
    # A fixed name: what a killed process leaves is overwritten by the next one.
    temporary = path.with_name(f'.{path.name}.tmp')
    text = {} if 'b' in mode else {'encoding': 'utf-8', 'newline': ''}
    with open(temporary, mode, **text) as file:  # type: ignore[call-overload]
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes JSON, with null for numbers that JSON does not have."""
    with atomic_writer(path) as file:
        json.dump(_finite(content), file, indent=2, allow_nan=False)
        file.write('\n')


def read_json(
    path: pathlib.Path, remedy: str = 'Restore it from a copy, or delete it.'
) -> Any:
    """Returns the content of a JSON file.

    Args:
        path: Path of the file.
        remedy: What to do about a damaged file, for the error.

    Raises:
        RunnerError: If the file is damaged.
    """
    try:
        with open(path, encoding='utf-8') as file:
            return json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunnerError(f'{path} is not valid JSON ({error}). {remedy}') from error


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
