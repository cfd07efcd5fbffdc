"""Imports an entry and prints what it defines; run by path in a process of its own.

Called as `python -P probe.py FOLDER NAME WORKLOADS PACKAGES`: the entry NAME lies in
FOLDER; WORKLOADS and PACKAGES are separated by commas, and PACKAGES must not be
imported. Prints JSON: function name to parameter names, and workload to batch size or
the error that asking for it gave.
"""

import importlib
import inspect
import json
import sys
from collections.abc import Sequence
from typing import Any


class _Unavailable:
    """Hides packages, installed though they may be."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Refuses a hidden package and leaves all others to the next finder."""
        if name.split('.')[0] in self._names:
            raise ImportError(f'{name} is not part of a leaderboard entry')


def _batch_size(function: Any, workload: str) -> int | str:
    try:
        size = function(workload)
    except Exception as error:
        # Reported by the caller, whatever the entry raised.
        return f'{type(error).__name__}: {error}'
    is_size = isinstance(size, int) and not isinstance(size, bool) and size > 0
    return size if is_size else f'returned {size!r}, not a positive integer'


def main(folder: str, name: str, workloads: str, packages: str) -> None:
    """Imports the entry and prints the report."""
    sys.dont_write_bytecode = True
    sys.meta_path.insert(0, _Unavailable(packages.split(',')))
    sys.path.insert(0, folder)
    module = importlib.import_module(f'{name}.submission')
    functions = {
        key: list(inspect.signature(value).parameters)
        for key, value in vars(module).items()
        if inspect.isfunction(value)
    }
    get_batch_size = getattr(module, 'get_batch_size', None)
    sizes = {
        workload: _batch_size(get_batch_size, workload)
        for workload in workloads.split(',')
        if get_batch_size is not None
    }
    json.dump({'functions': functions, 'batch_sizes': sizes}, sys.stdout)


if __name__ == '__main__':
    main(*sys.argv[1:])
