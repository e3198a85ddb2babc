"""`phichat logs backup`: a copy of all transcripts."""

from __future__ import annotations

import click

from phichat.cli.support.confirmation import confirm_action
from phichat.errors import OutputError
from phichat.paths import Paths, expand_user


@click.command("backup")
@click.argument("file", metavar="FILE")
@click.option("-y", "--yes", is_flag=True, help="Replace FILE if it exists.")
def logs_backup(file: str, yes: bool) -> None:
    """Write a consistent copy of all transcripts to FILE, also while conversations go on.

    The copy is a store of its own: put it where `phichat path logs` says to use it.
    """
    from phichat.services.composition import open_store

    target = expand_user(file).absolute()
    if target.is_dir():
        raise OutputError(f"{target} is a directory", "Give the name of a file in it")
    if target.exists():
        confirm_action(f"{target} exists already", "Replace it?", assume_yes=yes)
    transcripts = open_store(Paths.from_environment())
    try:
        transcripts.write_backup(target)
    finally:
        transcripts.close()
