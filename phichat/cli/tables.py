"""Tables for people: columns as wide as they need to be, and no wider than the terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

from phichat.terminal import clean_line

_LEAST = 12


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned lines. On a terminal that is too narrow, the first column is cut in the middle; in a file nothing is."""
    cells = [[clean_line(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(head))]
    if sys.stdout is not None and sys.stdout.isatty():
        spare = shutil.get_terminal_size().columns - 1 - sum(width + 2 for width in widths[1:])
        widths[0] = max(_LEAST, min(widths[0], spare))
    return "\n".join(
        "  ".join([_cut(row[0], widths[0]).ljust(widths[0]), *map(str.ljust, row[1:], widths[1:])]).rstrip()
        for row in cells
    )


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values, without those that have no value."""
    kept = [(name, clean_line(value)) for name, value in rows if value]
    width = max(len(name) for name, _ in kept)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in kept)


def size(count: int) -> str:
    """Bytes, as people say it."""
    if count < 1_000_000:
        return f"{count / 1e3:.1f} kB"
    return f"{count / 1e6:.1f} MB" if count < 1_000_000_000 else f"{count / 1e9:.2f} GB"


def _cut(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"
