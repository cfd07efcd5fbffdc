"""A CSV file that grows by a row at a time and survives being killed."""

import csv
import io
import pathlib
from collections.abc import Mapping
from typing import Any, TextIO

from absl import logging

from workloads_overrides.runner.atomic_files import atomic_writer


class CsvLog:
    """Appends rows with varying columns to a file.

    A row is written in one go and handed to the operating system at once. A row
    with a new column rewrites the file with the wider header, which happens a few
    times in a run. The file exists from the first row on.

    Attributes:
        num_rows: How many rows the file has.
    """

    def __init__(self, path: pathlib.Path, rows_to_keep: int = 0) -> None:
        """Takes up an existing file or starts a new one.

        Args:
            path: Path of the file.
            rows_to_keep: How many rows of an existing file belong to the run so
                far; later ones, and a last line without its end, are dropped.
        """
        self._path = path
        self._file: TextIO | None = None
        self._columns, rows = _read(path)
        if len(rows) < rows_to_keep:
            logging.warning(
                '%s has %d rows where the checkpoint counts %d; some were lost.',
                path,
                len(rows),
                rows_to_keep,
            )
        rows = rows[:rows_to_keep]
        self.num_rows = len(rows)
        if rows:
            self._rewrite(rows)
        else:
            self._columns = []
            path.unlink(missing_ok=True)

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row; values are numbers, strings or booleans."""
        new_columns = [name for name in row if name not in self._columns]
        if not self._columns:
            # AlgoPerf sorts the columns of the first row and of no other.
            new_columns.sort()
        if new_columns:
            self.close()
            _, rows = _read(self._path)
            self._columns += new_columns
            self._rewrite([*rows, self._cells(row)])
        else:
            if self._file is None:
                # Held open between rows, so a with statement does not fit.
                self._file = open(  # noqa: SIM115
                    self._path, 'a', encoding='utf-8', newline=''
                )
            csv.writer(self._file, lineterminator='\n').writerow(self._cells(row))
            self._file.flush()
        self.num_rows += 1

    def close(self) -> None:
        """Closes the file; a later row opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _cells(self, row: Mapping[str, Any]) -> list[str]:
        return [str(row[name]) if name in row else '' for name in self._columns]

    def _rewrite(self, rows: list[list[str]]) -> None:
        width = len(self._columns)
        with atomic_writer(self._path) as file:
            writer = csv.writer(file, lineterminator='\n')
            writer.writerow(self._columns)
            writer.writerows([*row, *[''] * (width - len(row))] for row in rows)


def _read(path: pathlib.Path) -> tuple[list[str], list[list[str]]]:
    if not path.exists():
        return [], []
    with open(path, encoding='utf-8', newline='') as file:
        text = file.read()
    # What follows the last line end was cut off while it was written.
    complete = io.StringIO(text[: text.rfind('\n') + 1], newline='')
    lines = list(csv.reader(complete))
    return (lines[0], lines[1:]) if lines else ([], [])
