"""Tables for terminals: columns as wide as their cells, and no wider than the terminal."""

import shutil
import sys
from collections.abc import Sequence

from phichat.sanitize import sanitize_line

_MIN_COLUMN_WIDTH = 12


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return aligned lines; on a terminal that is too narrow, the first column is cut in the middle."""
    cells = [[sanitize_line(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    if sys.stdout is not None and sys.stdout.isatty():
        available = shutil.get_terminal_size().columns - 1 - sum(width + 2 for width in widths[1:])
        widths[0] = max(_MIN_COLUMN_WIDTH, min(widths[0], available))
    return "\n".join(
        "  ".join([_truncate_middle(row[0], widths[0]).ljust(widths[0]), *map(str.ljust, row[1:], widths[1:])]).rstrip()
        for row in cells
    )


def format_pairs(rows: Sequence[tuple[str, str]]) -> str:
    """Return aligned names and values, without the empty values."""
    shown = [(name, sanitize_line(value)) for name, value in rows if value]
    width = max(len(name) for name, _ in shown)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in shown)


def _truncate_middle(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"
