"""Tells a submission for the other framework before anything is trained."""

import ast
import os

from workloads_overrides.runner.errors import RunnerError
from workloads_overrides.runner.submission_functions import submission_file

_PACKAGES = {'pytorch': 'torch', 'jax': 'jax'}


def check_framework(path: str | os.PathLike[str], framework: str) -> None:
    """Refuses a submission that imports the other framework and not this one.

    AlgoPerf's contract has no word for the framework of a submission, but its file
    has to import what it computes with. A file that imports neither is let through.

    Args:
        path: Path of the submission's Python file.
        framework: `'pytorch'` or `'jax'`.

    Raises:
        RunnerError: If the submission is for the other framework, or the path is not
            a Python file inside the working directory.
    """
    file = submission_file(path)
    # Read and not imported, since the other framework may not be installed.
    imported = _imported_packages(ast.parse(file.read_bytes(), filename=str(file)))
    wanted = _PACKAGES[framework]
    if wanted in imported:
        return
    for other, package in _PACKAGES.items():
        if package in imported:
            raise RunnerError(
                f'submission_path {path}: imports {package} and not {wanted}, so it '
                f'is a submission for --framework={other}, but this run has '
                f'--framework={framework}.'
            )


def _imported_packages(tree: ast.Module) -> set[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
    return {name.partition('.')[0] for name in names}
