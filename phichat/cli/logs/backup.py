"""`phichat logs backup`: a copy of all transcripts."""

import click

from phichat.cli.support.confirmation import confirm_output_file
from phichat.cli.support.options import open_transcripts, yes_option
from phichat.paths import expand_user


@click.command("backup")
@click.argument("file", metavar="FILE")
@yes_option
def logs_backup(file: str, yes: bool) -> None:
    """Write a consistent copy of all transcripts to FILE, even while conversations are in progress.

    To restore it, put it at the path shown by `phichat path logs`.
    """
    target = expand_user(file).absolute()
    confirm_output_file(target, assume_yes=yes)
    with open_transcripts() as transcripts:
        transcripts.get_store().write_backup(target)
