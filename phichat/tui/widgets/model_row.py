"""A model as a line of a list: on the first screen and in the switcher."""

from __future__ import annotations

from rich.text import Text

from phichat.sanitize import sanitize_line
from phichat.services.model_catalog import CatalogEntry


def format_model_row(entry: CatalogEntry, *, is_current: bool = False) -> Text:
    """Whether it is here, its name, whether it fits, and what it is; in words, not by colour alone."""
    text = Text("● " if entry.installed else "○ ", no_wrap=True, overflow="ellipsis")
    text.append(sanitize_line(entry.name), "bold")
    if is_current:
        text.append("  in use")
    match entry.fits:
        case True:
            text.append("  fits")
        case False:
            text.append("  does not fit", "bold red")
        case None:
            pass
    text.append(f"  {sanitize_line(entry.details)}", "dim")
    return text
