"""`phichat chat`: the full-screen chat, or a chat line by line."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.options import all_options, build_config, keep_alive_option
from phichat.errors import UsageError
from phichat.paths import Paths

if TYPE_CHECKING:
    from phichat.tui.app import PhichatApp


@click.command()
@all_options
@keep_alive_option
@click.option("-s", "--system", metavar="TEXT", help="System prompt.")
@click.option("-c", "--continue", "resume_latest", is_flag=True, help="Go on with the last conversation.")
@click.option("--cid", metavar="ID", help="Go on with this conversation.")
@click.option("-n", "--no-log", is_flag=True, help="Keep no transcript.")
@click.option(
    "--plain", is_flag=True, help="Line by line, without a full screen: for screen readers and dumb terminals."
)
def chat(resume_latest: bool, cid: str | None, no_log: bool, plain: bool, **flags: Any) -> int:
    """Chat with a model. Type /help there for what can be done."""
    if not plain and not (sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty()):
        raise UsageError(
            "The full-screen chat needs a terminal on stdin and stdout", 'ask with `phichat ask "..."`, or use --plain'
        )
    if not plain:
        # What is made until something is drawn stays; to look for garbage in it would only delay that.
        gc.disable()
    paths = Paths.from_environment()
    config = build_config(paths, log=False if no_log else None, **flags)
    from phichat.services.chat_service import ChatService

    service = ChatService(config, paths)
    conversation = service.initial_conversation(cid, resume_latest=resume_latest)
    if plain:
        from phichat.cli.plain_chat import PlainChat

        return PlainChat(service, conversation).run_until_exit()
    # Textual waits so many ms for what may follow Esc, 100 if not told: that long an answer would not be stopped.
    os.environ.setdefault("ESCDELAY", "25")
    # Textual draws at the next of so many moments a second: at 60, what is typed is seen 8 ms later.
    os.environ.setdefault("TEXTUAL_FPS", "120")
    from phichat.tui.app import PhichatApp

    return run_app(PhichatApp(service, conversation))


def run_app(app: PhichatApp) -> ExitCode:
    """Run the full-screen chat to its end; a crash of it is told."""
    app.run()
    if app.return_code:
        report_note = f"; what happened stands in {app.crash_report_path}" if app.crash_report_path else ""
        Diagnostics().print_notice(
            f"The interface failed and the transcript is whole{report_note}. Go on with `phichat chat -c`."
        )
        return ExitCode.ERROR
    return ExitCode.DONE
