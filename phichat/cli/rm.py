"""`phichat rm`: remove a model."""

import sys

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.options import create_default_context, debug_option, yes_option
from phichat.errors import UsageError
from phichat.sanitize import sanitize_line


@click.command()
@click.argument("model")
@yes_option
@debug_option
def rm(model: str, yes: bool) -> int:
    """Remove MODEL from the hub's cache or from phichat's downloads, or remove a link.

    Deletes only files that no other model needs, never a linked file or a file of another program.
    """
    from phichat.models.local.local_models import LocalModels
    from phichat.models.local.locations import ModelSource
    from phichat.models.local.removal import check_removable, remove_model
    from phichat.units import format_size

    models = LocalModels.from_paths(create_default_context().paths)
    model_file = models.resolve_model(model)
    check_removable(model_file)
    is_link = model_file.source is ModelSource.LINK
    if not yes:
        if not (sys.stdin and sys.stdin.isatty() and sys.stderr and sys.stderr.isatty()):
            raise UsageError("There is no terminal to ask for confirmation", f"Use -y to remove {model_file.name}")
        action = "Remove the link" if is_link else f"Remove {format_size(model_file.size)}"
        if not click.confirm(sanitize_line(f"{action}: {model_file.name}, {model_file.path}?"), err=True):
            return ExitCode.ERROR
    freed_bytes = remove_model(model_file, models)
    result = f"Link {model_file.name} removed; the file is untouched" if is_link else f"{model_file.name} removed"
    Diagnostics().print_notice(f"{result}, {format_size(freed_bytes)} freed ({freed_bytes:,} bytes).")
    return ExitCode.DONE
