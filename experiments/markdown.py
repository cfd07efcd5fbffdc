"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Formats a table, a line for each row.

    Args:
      header: Titles of the columns.
      rows: Cells of each row, one for each column.
    """
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)
