"""`phichat rm`: remove a model."""

from __future__ import annotations

import sys

import click

from phichat.cli.diagnostics import Diagnostics, ExitCode
from phichat.cli.options import debug_option
from phichat.errors import UsageError
from phichat.paths import Paths
from phichat.terminal import clean_line


@click.command()
@click.argument("model")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@debug_option
def rm(model: str, yes: bool) -> int:
    """Remove MODEL from the hub's cache or from phichat's downloads, or forget a link.

    Frees only what no other model needs, and never touches a linked file or what another program keeps.
    """
    from phichat.cli.tables import size
    from phichat.models.library import Library
    from phichat.models.places import Source
    from phichat.models.removing import remove, require_removable

    library = Library.open(Paths.find())
    found = library.resolve(model)
    require_removable(found)
    is_link = found.source is Source.LINK
    if not yes:
        if not (sys.stdin and sys.stdin.isatty() and sys.stderr and sys.stderr.isatty()):
            raise UsageError(f"Nobody can be asked whether to remove {found.name}", "say so with -y")
        what = "Forget the link" if is_link else f"Remove {size(found.size)}"
        if not click.confirm(clean_line(f"{what}: {found.name}, {found.path}?"), err=True):
            return ExitCode.ERROR
    freed = remove(found, library)
    done = f"The link {found.name} is forgotten; its file stays" if is_link else f"{found.name} is removed"
    Diagnostics().notice(f"{done}, {size(freed)} freed ({freed:,} bytes).")
    return ExitCode.DONE
