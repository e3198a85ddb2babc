"""`phichat link`: use a file where it is, under a name."""

from __future__ import annotations

import re

import click

from phichat.cli.diagnostics import Diagnostics, ExitCode
from phichat.cli.interrupt import ctrl_c
from phichat.cli.options import debug_option
from phichat.errors import UsageError
from phichat.paths import Paths, expanded


@click.command()
@click.argument("path")
@click.option("--name", metavar="N", help="What to call it; default: the name of the file.")
@debug_option
def link(path: str, name: str | None) -> int:
    """Give the GGUF file at PATH a name, and remember its hash so that damage to it is found.

    The file stays where it is. Linking a file again takes it as it is then.
    """
    from phichat.gguf_header import check_usable, read_model
    from phichat.models.finding import by_path
    from phichat.models.library import Library
    from phichat.models.links import Link, Links
    from phichat.models.places import Source
    from phichat.models.proofs import sha256_of

    diagnostics = Diagnostics()
    library = Library.open(Paths.find())
    model = by_path(expanded(path).absolute())
    check_usable(read_model(model.path), model.path)
    called = name or model.name
    if not re.fullmatch(r"\w[\w.+ -]*", called):
        raise UsageError(f"{called!r} is no name for a model", "use letters, digits, dots and dashes with --name")
    taken = [other for other in library.installed if other.is_called(called) and other.source is not Source.LINK]
    if taken or any(spec.is_called(called) for spec in library.registry.values()):
        raise UsageError(f"Another model is called {called}", "choose another name with --name")
    hashes = []
    with ctrl_c() as cancel:
        for part in model.parts:
            reading = sha256_of(part.path, cancel)
            while True:
                try:
                    diagnostics.progress(f"reading {part.path.name} {next(reading):.0%}")
                except StopIteration as end:
                    hashes.append(str(end.value))
                    break
    diagnostics.clear_progress()
    if not all(hashes):
        return ExitCode.INTERRUPTED
    for part, digest in zip(model.parts, hashes, strict=True):
        library.proofs.remember(part.path, digest)
    Links(library.places.links).add(Link(called, model.path, tuple(hashes)))
    diagnostics.notice(f"{called} is {model.path}, sha256 {hashes[0]}.")
    return ExitCode.DONE
