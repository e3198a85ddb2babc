"""`phichat chat`: the full-screen chat, or a chat line by line."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.options import all_options, create_context, keep_alive_option
from phichat.errors import UsageError

if TYPE_CHECKING:
    from phichat.tui.app import PhichatApp


@click.command()
@all_options
@keep_alive_option
@click.option("-s", "--system", metavar="TEXT", help="System prompt.")
@click.option("-c", "--continue", "resume_latest", is_flag=True, help="Continue the latest conversation.")
@click.option("--cid", metavar="ID", help="Continue this conversation (an ID prefix is enough).")
@click.option("-n", "--no-log", is_flag=True, help="Don't save this conversation.")
@click.option(
    "--plain", is_flag=True, help="Line by line, without a full screen: for screen readers and dumb terminals."
)
def chat(resume_latest: bool, cid: str | None, no_log: bool, plain: bool, **flags: Any) -> int:
    """Chat with a model. Type /help in the chat for a list of commands."""
    if not plain:
        if not (sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty()):
            message = "The full-screen chat needs a terminal on stdin and stdout"
            raise UsageError(message, 'Use `phichat ask "..."`, or --plain')
        # Objects made before the first paint stay alive; looking for garbage among them would only delay it.
        gc.disable()
    context = create_context(log=False if no_log else None, **flags)
    from phichat.services.chat_service import ChatService

    service = ChatService(context)
    conversation = service.initial_conversation(cid, resume_latest=resume_latest)
    if plain:
        from phichat.cli.plain_chat import PlainChat

        return PlainChat(service, conversation).run_until_exit()
    # Milliseconds that Textual waits for what may follow Esc. By default 100: stopping an answer would take that long.
    os.environ.setdefault("ESCDELAY", "25")
    # Frames per second of Textual. At the default of 60, typed text appears 8 ms later.
    os.environ.setdefault("TEXTUAL_FPS", "120")
    from phichat.tui.app import PhichatApp

    return run_app(PhichatApp(service, conversation))


def run_app(app: PhichatApp) -> ExitCode:
    """Run the full-screen chat and report a crash."""
    app.run()
    if not app.return_code:
        return ExitCode.DONE
    details = f" Details: {app.crash_report_path}." if app.crash_report_path else ""
    Diagnostics().print_notice(f"phichat crashed; your conversation is safe.{details} Continue with `phichat chat -c`.")
    return ExitCode.ERROR
