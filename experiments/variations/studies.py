"""The two studies: what each trains, and what it writes."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Protocol

from experiments.variations import sensitivity, tried
from experiments.variations.points import Point, base_points, choose_names
from experiments.variations.results import Results
from experiments.variations.sensitivity_plot import plot_sweeps
from experiments.variations.sensitivity_table import format_table as format_sweeps
from experiments.variations.tried_table import format_table as format_variations


class Study(Protocol):
    """A set of points and the report on them."""

    def points(self, only: Sequence[str] = ()) -> list[Point]:
        """Returns the points to train.

        Args:
          only: Names to restrict them to; all if empty.

        Raises:
          ValueError: For a name that the study does not have.
        """

    def report(self, results: Results, folder: pathlib.Path) -> str:
        """Writes table and plot to a folder; returns the table."""


class SensitivityStudy:
    """How the steps to the target change as a hyperparameter moves by factors."""

    def __init__(self, workload: str, approximations: Sequence[str]) -> None:
        self._sweeps = sensitivity.make_sweeps(workload, approximations)

    def points(self, only: Sequence[str] = ()) -> list[Point]:
        """As in `Study`; names are those of hyperparameters."""
        names = choose_names(only, list(sensitivity.SWEPT))
        return [
            point
            for sweep in self._sweeps
            if sweep.name in names
            for point in sweep.points.values()
        ]

    def report(self, results: Results, folder: pathlib.Path) -> str:
        """As in `Study`."""
        text = format_sweeps(self._sweeps, results)
        (folder / 'sensitivity.md').write_text(text + '\n')
        title = f'{results.workload}: validation {results.metric} {results.target:g}'
        plot_sweeps(self._sweeps, results, title, folder / 'sensitivity.png')
        return text


class TriedStudy:
    """Named variations of the base point."""

    def __init__(
        self, approximations: Sequence[str], path: pathlib.Path = tried.TRIED
    ) -> None:
        self._bases = base_points(approximations)
        self._variations = tried.load(path, self._bases)

    def points(self, only: Sequence[str] = ()) -> list[Point]:
        """As in `Study`; the base point is always among them."""
        names = choose_names(only, list(self._variations))
        return tried.points(
            [
                variation
                for name, variation in self._variations.items()
                if name in (*names, tried.BASE)
            ],
            self._bases,
        )

    def report(self, results: Results, folder: pathlib.Path) -> str:
        """As in `Study`."""
        text = format_variations(list(self._variations.values()), self._bases, results)
        (folder / 'tried.md').write_text(text + '\n')
        return text


STUDIES: dict[str, Callable[[str, Sequence[str]], Study]] = {
    'sensitivity': SensitivityStudy,
    # The same for every workload.
    'tried': lambda _, approximations: TriedStudy(approximations),
}
