"""`phichat chat`: the full-screen chat, or a chat line by line."""

from __future__ import annotations

import sys
from typing import Any

import click

from phichat.cli.diagnostics import Diagnostics, ExitCode
from phichat.cli.options import all_options, configure
from phichat.errors import UsageError
from phichat.paths import Paths


@click.command()
@all_options
@click.option("-s", "--system", metavar="TEXT", help="System prompt.")
@click.option("-c", "--continue", "continues", is_flag=True, help="Go on with the last conversation.")
@click.option("--cid", metavar="ID", help="Go on with this conversation.")
@click.option("-n", "--no-log", is_flag=True, help="Keep no transcript.")
@click.option(
    "--plain", is_flag=True, help="Line by line, without a full screen: for screen readers and dumb terminals."
)
def chat(continues: bool, cid: str | None, no_log: bool, plain: bool, **flags: Any) -> int:
    """Chat with a model. Type /help there for what can be done."""
    if not plain and not (sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty()):
        raise UsageError(
            "The full-screen chat needs a terminal on stdin and stdout", 'ask with `phichat ask "..."`, or use --plain'
        )
    paths = Paths.find()
    config = configure(paths, log=False if no_log else None, **flags)
    from phichat.desk import Desk

    desk = Desk(config, paths)
    conversation = desk.wanted(cid, continues=continues)
    if plain:
        from phichat.cli.plain import PlainChat

        return PlainChat(desk, conversation).run()
    from phichat.tui.app import PhichatApp

    app = PhichatApp(desk, conversation)
    app.run()
    if app.report is not None:
        Diagnostics().notice(
            f"The interface failed and the transcript is whole; what happened stands in {app.report}. "
            "Go on with `phichat chat -c`."
        )
        return ExitCode.ERROR
    return ExitCode.DONE
