"""`phichat link`: register a model file under a name."""

import re

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.interrupt import cancel_on_sigint
from phichat.cli.support.options import create_default_context, debug_option
from phichat.errors import UsageError
from phichat.paths import expand_user


@click.command()
@click.argument("path")
@click.option("--name", metavar="N", help="The name (default: that of the file).")
@debug_option
def link(path: str, name: str | None) -> int:
    """Register the GGUF file at PATH under a name, recording its hash so that damage can be detected.

    The file stays where it is. Linking it again records its current content.
    """
    from phichat.gguf.header import check_usable, read_model_header
    from phichat.models.local.discovery import model_at_path
    from phichat.models.local.hash_cache import hash_file
    from phichat.models.local.links import Link, LinkStore
    from phichat.models.local.local_models import LocalModels
    from phichat.models.local.locations import ModelSource

    diagnostics, hashes = Diagnostics(), []
    models = LocalModels.from_paths(create_default_context().paths)
    model = model_at_path(expand_user(path).absolute())
    check_usable(read_model_header(model.path), model.path)
    link_name = name or model.name
    if not re.fullmatch(r"\w[\w.+ -]*", link_name):
        raise UsageError(f"{link_name!r} is not a valid model name", "Use letters, digits, dots and dashes with --name")
    conflicts = [other.matches_name(link_name) for other in models.models if other.source is not ModelSource.LINK]
    if any((*conflicts, *(spec.matches_name(link_name) for spec in models.registry.values()))):
        raise UsageError(f"Another model is named {link_name}", "Choose another name with --name")
    with cancel_on_sigint() as cancel:
        for part in model.parts:
            for fraction, digest in hash_file(part.path, cancel):
                diagnostics.show_progress(f"reading {part.path.name} {fraction:.0%}")
                hashes += [digest] if digest else []
    diagnostics.clear_progress()
    if len(hashes) < len(model.parts):
        return ExitCode.INTERRUPTED
    for part, digest in zip(model.parts, hashes, strict=True):
        models.hash_cache.store(part.path, digest)
    LinkStore(models.locations.links_file).add_link(Link(link_name, model.path, tuple(hashes)))
    diagnostics.print_notice(f"Linked {link_name} to {model.path}, SHA-256 {hashes[0]}.")
    return ExitCode.DONE
