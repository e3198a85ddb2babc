"""One model as a line of a list, on the welcome page and in the model picker."""

from rich.text import Text

from phichat.sanitize import sanitize_line
from phichat.services.model_catalog import CatalogEntry

_FIT_LABELS = {True: ("  fits", ""), False: ("  does not fit", "bold red"), None: ("", "")}


def format_model_row(entry: CatalogEntry, *, is_current: bool = False) -> Text:
    """Return the name of a model, whether it is installed and fits, and its details; in words, not only in colour."""
    text = Text("● " if entry.installed else "○ ", no_wrap=True, overflow="ellipsis")
    text.append(sanitize_line(entry.name), "bold")
    text.append("  in use" if is_current else "")
    text.append(*_FIT_LABELS[entry.fits])
    text.append(f"  {sanitize_line(entry.details)}", "dim")
    return text
