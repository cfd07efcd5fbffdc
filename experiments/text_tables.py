"""Tables as text: in Markdown for files, aligned for the terminal."""

from collections.abc import Iterable, Sequence


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Formats a Markdown table, a line for each row.

    Args:
      header: Titles of the columns.
      rows: Cells of each row, one for each column.
    """
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Formats a table of columns of equal width, with a line below the titles.

    The first column, which names what a row is about, is aligned to the left and the
    others, which hold figures, to the right.

    Args:
      header: Titles of the columns.
      rows: Cells of each row, one for each column.
    """
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    formatted = [
        ' | '.join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    rule = '-|-'.join('-' * width for width in widths)
    return '\n'.join([formatted[0], rule, *formatted[1:]])
