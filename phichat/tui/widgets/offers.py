"""A model as a line of a list: on the first screen and in the switcher."""

from __future__ import annotations

from rich.text import Text

from phichat.shelf import ModelOffer
from phichat.terminal import clean_line


def offer_line(offer: ModelOffer, *, in_use: bool = False) -> Text:
    """Whether it is here, its name, whether it fits, and what it is; in words, not by colour alone."""
    text = Text("● " if offer.installed else "○ ", no_wrap=True, overflow="ellipsis")
    text.append(clean_line(offer.name), "bold")
    if in_use:
        text.append("  in use")
    match offer.fits:
        case True:
            text.append("  fits")
        case False:
            text.append("  does not fit", "bold red")
        case None:
            pass
    text.append(f"  {clean_line(offer.about)}", "dim")
    return text
