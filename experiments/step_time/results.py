"""Results of a measurement, written part by part as they come."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from workloads_overrides.runner.atomic_files import read_json, write_json


class OtherConditionsError(ValueError):
    """Says that a file holds results of another machine or other settings."""


@dataclasses.dataclass
class Results:
    """A file of results.

    Attributes:
      path: The file.
      conditions: Machine and settings, the same for all parts.
      parts: Name of a part to its result.
      load_average: Name of a part to the load of the machine before it, over the last
        minute.
    """

    path: pathlib.Path
    conditions: Mapping[str, Any]
    parts: dict[str, Any] = dataclasses.field(default_factory=dict)
    load_average: dict[str, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def open(cls, path: pathlib.Path, conditions: Mapping[str, Any]) -> 'Results':
        """Reads what there is of a measurement.

        Args:
          path: The file; none needs to be there.
          conditions: Machine and settings.

        Raises:
          OtherConditionsError: If the file is of another machine or other settings.
        """
        if not path.exists():
            return cls(path, conditions)
        results = cls.load(path)
        if results.conditions != conditions:
            raise OtherConditionsError(
                f'{path} was measured under other conditions '
                f'({results.conditions}, now {conditions}); delete it to measure '
                'again, or choose another --output_dir.'
            )
        return results

    @classmethod
    def load(cls, path: pathlib.Path) -> 'Results':
        """Reads what there is of a measurement, whatever its conditions.

        Raises:
          ValueError: If there is no such file.
        """
        if not path.exists():
            raise ValueError(f'{path}: there are no results; measure first.')
        content = read_json(path)
        return cls(
            path, content['conditions'], content['parts'], content['load_average']
        )

    def ensure(self, name: str, measure: Callable[[], Any]) -> Any:
        """Returns the result of a part, measured and written unless there is one."""
        if name not in self.parts:
            print(f'Measuring: {name}', flush=True)
            load = round(os.getloadavg()[0], 2)
            self.parts[name] = measure()
            self.load_average[name] = load
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(
                self.path,
                {
                    'conditions': self.conditions,
                    'load_average': self.load_average,
                    'parts': self.parts,
                },
            )
        return self.parts[name]
