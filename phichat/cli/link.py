"""`phichat link`: use a file where it is, under a name."""

from __future__ import annotations

import re

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.interrupt import cancel_on_sigint
from phichat.cli.support.options import debug_option
from phichat.errors import UsageError
from phichat.paths import Paths, expand_user


@click.command()
@click.argument("path")
@click.option("--name", metavar="N", help="What to call it; default: the name of the file.")
@debug_option
def link(path: str, name: str | None) -> int:
    """Give the GGUF file at PATH a name, and remember its hash so that damage to it is found.

    The file stays where it is. Linking a file again takes it as it is then.
    """
    from phichat.gguf.header import check_usable, read_model_header
    from phichat.models.local.discovery import model_at_path
    from phichat.models.local.hash_cache import hash_file
    from phichat.models.local.links import Link, LinkStore
    from phichat.models.local.local_models import LocalModels
    from phichat.models.local.locations import ModelSource

    diagnostics = Diagnostics()
    library = LocalModels.from_paths(Paths.from_environment())
    model = model_at_path(expand_user(path).absolute())
    check_usable(read_model_header(model.path), model.path)
    link_name = name or model.name
    if not re.fullmatch(r"\w[\w.+ -]*", link_name):
        raise UsageError(f"{link_name!r} is no name for a model", "Use letters, digits, dots and dashes with --name")
    conflicts = [
        other for other in library.models if other.matches_name(link_name) and other.source is not ModelSource.LINK
    ]
    if conflicts or any(spec.matches_name(link_name) for spec in library.registry.values()):
        raise UsageError(f"Another model is called {link_name}", "Choose another name with --name")
    hashes = []
    with cancel_on_sigint() as cancel:
        for part in model.parts:
            progress = hash_file(part.path, cancel)
            while True:
                try:
                    diagnostics.show_progress(f"reading {part.path.name} {next(progress):.0%}")
                except StopIteration as end:
                    hashes.append(str(end.value))
                    break
    diagnostics.clear_progress()
    if not all(hashes):
        return ExitCode.INTERRUPTED
    for part, digest in zip(model.parts, hashes, strict=True):
        library.hash_cache.store(part.path, digest)
    LinkStore(library.locations.links_file).add_link(Link(link_name, model.path, tuple(hashes)))
    diagnostics.print_notice(f"{link_name} is {model.path}, sha256 {hashes[0]}.")
    return ExitCode.DONE
