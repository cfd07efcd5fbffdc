"""Finds and checks the functions that make up a submission."""

import dataclasses
import importlib
import os
import pathlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from workloads_overrides import registry
from workloads_overrides.runner.errors import RunnerError

_REQUIRED = (
    'get_batch_size',
    'init_optimizer_state',
    'update_params',
    'data_selection',
)


@dataclasses.dataclass(frozen=True)
class SubmissionFunctions:
    """The functions of a submission, as AlgoPerf defines them, and one more.

    `validate_hyperparameters` is this runner's own: it raises `ValueError` or
    `TypeError` for a point that cannot be trained, before anything is trained.
    """

    get_batch_size: Callable[[str], int]
    init_optimizer_state: Callable[..., Any]
    update_params: Callable[..., tuple[Any, Any, Any]]
    data_selection: Callable[..., Any]
    prepare_for_eval: Callable[..., tuple[Any, Any, Any]] | None = None
    get_eval_batch_size: Callable[[str], int] | None = None
    validate_hyperparameters: Callable[[Any], None] | None = None

    def batch_size(self, workload_name: str) -> int:
        """Returns the training batch size for a workload."""
        return batch_size_for(self.get_batch_size, workload_name)


def batch_size_for(get_batch_size: Callable[[str], int], workload_name: str) -> int:
    """Returns the training batch size for a workload.

    A submission may know base workloads only; then the size for the base workload
    counts.
    """
    try:
        return get_batch_size(workload_name)
    except ValueError:
        base = registry.base_name(workload_name)
        if base == workload_name:
            raise
        return get_batch_size(base)


def functions_of(module: ModuleType) -> SubmissionFunctions:
    """Returns the submission functions that a module defines.

    Raises:
        RunnerError: If a required function is missing.
    """
    missing = [name for name in _REQUIRED if not callable(getattr(module, name, None))]
    if missing:
        raise RunnerError(
            f'Submission module {module.__name__} lacks the function(s) '
            f'{", ".join(missing)}; it must define {", ".join(_REQUIRED)}, and may '
            'define prepare_for_eval, get_eval_batch_size and '
            'validate_hyperparameters.'
        )
    found: dict[str, Any] = {
        field.name: getattr(module, field.name, None)
        for field in dataclasses.fields(SubmissionFunctions)
    }
    return SubmissionFunctions(**found)


def submission_file(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the absolute path of a submission's Python file.

    Raises:
        RunnerError: If the path is not a Python file inside the working directory.
    """
    here = pathlib.Path.cwd()
    # Not resolved: a link inside the working directory counts by where it lies.
    file = pathlib.Path(os.path.normpath(here / path))
    if file.suffix != '.py':
        raise RunnerError(f'submission_path {path}: must be a Python file (.py).')
    if not file.is_relative_to(here):
        raise RunnerError(
            f'submission_path {path}: must lie inside the working directory {here}, '
            'since its module name is the path relative to it.'
        )
    if not file.is_file():
        raise RunnerError(f'submission_path {path}: there is no such file in {here}.')
    return file


def load_submission(path: str | os.PathLike[str]) -> SubmissionFunctions:
    """Imports a submission from the path of its Python file.

    The module's name is the path relative to the working directory with dots for
    slashes, so the file's relative imports work.

    Raises:
        RunnerError: If the path is not a Python file inside the working directory,
            or a required function is missing.
    """
    here = pathlib.Path.cwd()
    file = submission_file(path)
    if str(here) not in sys.path and '' not in sys.path:
        sys.path.insert(0, str(here))
    module_name = '.'.join(file.relative_to(here).with_suffix('').parts)
    return functions_of(importlib.import_module(module_name))
