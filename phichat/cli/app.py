"""The verbs, found by name so that each run imports only its own."""

from __future__ import annotations

from collections.abc import Sequence

import click

from phichat import __version__
from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.lazy_group import LazyGroup
from phichat.cli.support.output import StdoutClosed, discard_stdout
from phichat.errors import OutputError, PhichatError, UsageError

_COMMANDS = (
    *("ask", "bench", "chat", "check", "doctor", "export", "fit", "link", "list", "logs", "path", "ps", "pull", "rm"),
    *("search", "serve", "show", "stop", "verify"),
)


@click.group(
    cls=LazyGroup,
    subcommands={name: f"phichat.cli.{name}:{name}" for name in _COMMANDS} | {"logs": "phichat.cli.logs.group:logs"},
    aliases={"ls": "list"},
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, "--version", message="phichat %(version)s")
@click.pass_context
def phichat(ctx: click.Context) -> None:
    """Chat with quantized GGUF models on this machine."""
    if ctx.invoked_subcommand is None:
        from phichat.cli.chat import chat

        ctx.invoke(chat)


def run_command_line(arguments: Sequence[str]) -> int:
    """Run the command line; the one place where errors become a line on stderr and an exit code."""
    diagnostics = Diagnostics()
    debug = "--debug" in arguments
    try:
        result = phichat.main(list(arguments), prog_name="phichat", standalone_mode=False)
        return int(result or ExitCode.DONE)
    except PhichatError as error:
        return diagnostics.print_error(error, debug=debug)
    except click.ClickException as error:
        usage = UsageError(error.format_message().rstrip("."), _format_help_hint(error))
        return diagnostics.print_error(usage, debug=debug)
    except StdoutClosed:
        return ExitCode.DONE
    except OSError as exc:
        # What no room could make more of, such as a full disk under `phichat --help > FILE`.
        discard_stdout()
        return diagnostics.print_error(OutputError(f"The system refused ({exc})", "See --debug for where"), debug=debug)
    except click.Abort:
        return ExitCode.INTERRUPTED


def _format_help_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"see `{context.command_path if context else 'phichat'} --help`"
