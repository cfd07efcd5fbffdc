"""Which modules of a package does a file need?"""

import ast
import pathlib
from collections.abc import Iterator


def needed_files(package: pathlib.Path, source: str) -> list[str]:
    """Follows relative imports from a file through its package.

    Args:
      package: Folder of the package.
      source: Path of the file within it.

    Returns:
      Paths within the package, sorted: the file, every module that it imports
      directly or through others, and the `__init__.py` of their folders.

    Raises:
      FileNotFoundError: If a module that is imported does not exist.
      ValueError: If an import reaches out of the package.
    """
    found: set[pathlib.PurePosixPath] = set()
    waiting = [pathlib.PurePosixPath(source)]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        if not (package / path).is_file():
            raise FileNotFoundError(f'{package / path}: there is no such file.')
        # Importing a module imports the packages around it first.
        waiting += [folder / '__init__.py' for folder in path.parents]
        waiting += _imported(package, path)
    return sorted(str(path) for path in found)


def _imported(
    package: pathlib.Path, path: pathlib.PurePosixPath
) -> Iterator[pathlib.PurePosixPath]:
    """Yields the files that a file's relative imports name."""
    tree = ast.parse((package / path).read_text(encoding='utf-8'), filename=str(path))
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        if node.level > len(path.parts):
            raise ValueError(
                f'{path}:{node.lineno}: the import reaches out of {package.name}; a '
                'submission has to be self-contained.'
            )
        base = path.parents[node.level - 1]
        if node.module is not None:
            base = base.joinpath(*node.module.split('.'))
            if not (package / base).is_dir():
                yield base.with_name(f'{base.name}.py')
                continue
        yield base / '__init__.py'
        for alias in node.names:
            # A name imported from a package is a module in it or what it defines.
            if (package / base / alias.name).is_dir():
                yield base / alias.name / '__init__.py'
            elif (package / base / f'{alias.name}.py').is_file():
                yield base / f'{alias.name}.py'
