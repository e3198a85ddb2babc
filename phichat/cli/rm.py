"""`phichat rm`: remove a model."""

from __future__ import annotations

import sys

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.options import debug_option
from phichat.errors import UsageError
from phichat.paths import Paths
from phichat.sanitize import sanitize_line


@click.command()
@click.argument("model")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@debug_option
def rm(model: str, yes: bool) -> int:
    """Remove MODEL from the hub's cache or from phichat's downloads, or forget a link.

    Frees only what no other model needs, and never touches a linked file or what another program keeps.
    """
    from phichat.cli.support.tables import format_size
    from phichat.models.local.local_models import LocalModels
    from phichat.models.local.locations import ModelSource
    from phichat.models.local.removal import check_removable, remove_model

    library = LocalModels.from_paths(Paths.from_environment())
    model_file = library.resolve_model(model)
    check_removable(model_file)
    is_link = model_file.source is ModelSource.LINK
    if not yes:
        if not (sys.stdin and sys.stdin.isatty() and sys.stderr and sys.stderr.isatty()):
            raise UsageError(f"Nobody can be asked whether to remove {model_file.name}", "Say so with -y")
        action = "Forget the link" if is_link else f"Remove {format_size(model_file.size)}"
        if not click.confirm(sanitize_line(f"{action}: {model_file.name}, {model_file.path}?"), err=True):
            return ExitCode.ERROR
    freed_bytes = remove_model(model_file, library)
    result = f"The link {model_file.name} is forgotten; its file stays" if is_link else f"{model_file.name} is removed"
    Diagnostics().print_notice(f"{result}, {format_size(freed_bytes)} freed ({freed_bytes:,} bytes).")
    return ExitCode.DONE
