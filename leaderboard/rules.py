"""Constructs that AlgoPerf's rules forbid, found in the source of an entry.

The checks read the syntax tree and resolve names through the file's imports, so
`import os as o; o.environ[...]` is found like `os.environ[...]`, and so is
`getattr(os, 'environ')`. They are stricter than the rules where that makes them simple
(a submission has no need of `os.environ` or of files at all), and they cannot prove
anything about code that hides what it does, which is why the usual ways to hide it are
refused as well.

| Rule | Refused |
| --- | --- |
| `environment` | `os.environ` and all else that can change environment variables |
| `foreign_import` | importing AlgoPerf, this project, or the other framework |
| `workload_name` | what begins like a workload's name, or what tells workloads apart |
| `command_line` | reading the flags of the runner, which name the workload |
| `kernel` | compiling kernels of one's own, loading native libraries |
| `files` | reading or writing files, and the network |
| `background_work` | threads and processes, which could run through evaluations |
| `hidden_code` | `exec`, `eval`, imports by computed name, `import *` |

Names of workloads may be in `_BATCH_SIZES` and `get_batch_size`, which in turn may not
tell anything but the batch size.
"""

import ast
import builtins
import re
from collections.abc import Iterator, Mapping

from leaderboard.forbidden_names import FORBIDDEN
from leaderboard.layout import FOREIGN_PACKAGES, FRAMEWORKS, WORKLOAD_NAMES
from leaderboard.violation import Violation

_BATCH_SIZE_TABLE = '_BATCH_SIZES'
_BATCH_SIZE_FUNCTION = 'get_batch_size'
# Names of workloads, of their variants, classes and modules have one of these at the
# start of a word, in lower or upper case. A sentence may speak of them.
_WORKLOAD_WORD = re.compile(
    rf'(?<![a-z])({"|".join(sorted({n.split("_")[0] for n in WORKLOAD_NAMES}))})'
)


def check_source(file: str, source: str, framework: str) -> list[Violation]:
    """Finds the forbidden constructs in one file.

    Args:
      file: Path of the file within the entry, for the report.
      source: Its text.
      framework: The entry's framework, a key of `layout.FRAMEWORKS`.

    Returns:
      The violations in the order of lines.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        message = f'Not valid Python: {error.msg}.'
        return [Violation(file, error.lineno or 1, 'syntax', message)]
    found = [
        *_forbidden_names(tree, file),
        *_star_imports(tree, file),
        *_foreign_imports(tree, file, framework),
        *_workload_names(tree, file),
    ]
    return sorted(set(found))


def imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yields line and dotted name of each absolute import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module is not None
            for alias in node.names:
                yield node.lineno, f'{node.module}.{alias.name}'


def _aliases(tree: ast.AST) -> dict[str, str]:
    """Returns what each imported name in the file stands for."""
    aliases = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                # `import a.b` binds `a`, `import a.b as c` binds c to a.b.
                first = alias.name.split('.')[0]
                aliases[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                # A relative import is the entry's own and stands for nothing else.
                prefix = node.module if node.level == 0 else '.'
                aliases[alias.asname or alias.name] = f'{prefix}.{alias.name}'
    return aliases


def _dotted_name(node: ast.AST, aliases: Mapping[str, str]) -> str | None:
    """Returns what an expression such as `np.save` stands for.

    None if it does not begin with an imported name or a builtin.
    """
    match node:
        case ast.Name(id=name):
            is_builtin = hasattr(builtins, name) or name == '__builtins__'
            return aliases.get(name, name if is_builtin else None)
        case (
            ast.Attribute(value=owner, attr=str(member))
            | ast.Call(
                func=ast.Name(id='getattr'), args=[owner, ast.Constant(str(member)), *_]
            )
        ):
            base = _dotted_name(owner, aliases)
            return None if base is None else f'{base}.{member}'
    return None


def _forbidden_names(tree: ast.AST, file: str) -> Iterator[Violation]:
    aliases = _aliases(tree)
    uses = list(imported_modules(tree))
    members = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            members.append((node.lineno, node.attr))
        if isinstance(node, ast.Name | ast.Attribute | ast.Call):
            name = _dotted_name(node, aliases)
            if name is not None:
                uses.append((node.lineno, name))
    for rule in FORBIDDEN:
        for line, name in uses:
            forbidden = _covered_by(name, rule.names)
            if forbidden is not None:
                yield Violation(file, line, rule.rule, f'{forbidden}: {rule.advice}.')
        for line, name in members:
            if name in rule.members:
                yield Violation(file, line, rule.rule, f'.{name}: {rule.advice}.')


def _star_imports(tree: ast.AST, file: str) -> Iterator[Violation]:
    """Finds imports that hide which names they bring, relative ones too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.names[0].name == '*':
            message = 'import *: import names one by one.'
            yield Violation(file, node.lineno, 'hidden_code', message)


def _covered_by(name: str, forbidden: frozenset[str]) -> str | None:
    parts = name.split('.')
    for end in range(1, len(parts) + 1):
        prefix = '.'.join(parts[:end])
        if prefix in forbidden:
            return prefix
    return None


def _foreign_imports(tree: ast.AST, file: str, framework: str) -> Iterator[Violation]:
    others = {
        package: other
        for other, description in FRAMEWORKS.items()
        if other != framework
        for package in description.packages
    }
    for line, name in imported_modules(tree):
        root = name.split('.')[0]
        if root in FOREIGN_PACKAGES:
            message = (
                f'{root}: an entry is self-contained and takes the workload as given.'
            )
            yield Violation(file, line, 'foreign_import', message)
        elif root in others:
            message = (
                f'{root} belongs to {others[root]}; an entry is for one framework.'
            )
            yield Violation(file, line, 'foreign_import', message)


def _workload_names(tree: ast.Module, file: str) -> Iterator[Violation]:
    """Finds workload names outside the one place that may know them.

    It may not tell others either: a batch size gives the workload away.
    """
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if _chooses_batch_size(node) and node in tree.body:
            for kept in ast.walk(node):
                if isinstance(kept, ast.Global):
                    message = (
                        f'global {", ".join(kept.names)}: {_BATCH_SIZE_FUNCTION} '
                        'returns the batch size and keeps nothing.'
                    )
                    yield Violation(file, kept.lineno, 'workload_name', message)
            continue
        waiting += ast.iter_child_nodes(node)
        line = getattr(node, 'lineno', 1)
        text = _text_of(node)
        if text is not None and _names_a_workload(text):
            message = (
                f'{text!r}: a workload may choose the batch size and nothing else; '
                f'names go to {_BATCH_SIZE_TABLE} or {_BATCH_SIZE_FUNCTION}.'
            )
            yield Violation(file, line, 'workload_name', message)
        if _reads_batch_size_table(node):
            message = (
                f'{_BATCH_SIZE_TABLE}: it is for {_BATCH_SIZE_FUNCTION} alone; '
                'elsewhere it tells workloads apart.'
            )
            yield Violation(file, line, 'workload_name', message)


def _names_a_workload(text: str) -> bool:
    # A text with a space is a message or a docstring.
    return _WORKLOAD_WORD.search(text.lower()) is not None and not re.search(
        r'\s', text
    )


def _reads_batch_size_table(node: ast.AST) -> bool:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
            return name == _BATCH_SIZE_TABLE
    return False


def _chooses_batch_size(node: ast.AST) -> bool:
    if isinstance(node, ast.FunctionDef):
        return node.name == _BATCH_SIZE_FUNCTION
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return [ast.unparse(target) for target in targets] == [_BATCH_SIZE_TABLE]


def _text_of(node: ast.AST) -> str | None:
    """Returns the text of a literal, or the name of a keyword argument."""
    if isinstance(node, ast.keyword):
        return node.arg
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bytes):
            return node.value.decode('utf-8', 'replace')
        return node.value if isinstance(node.value, str) else None
    return None
