"""The `phichat` command: its subcommands are found by name, so that each run imports only its own."""

from collections.abc import Sequence

import click

from phichat import __version__
from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.lazy_group import LazyGroup
from phichat.cli.support.output import StdoutClosed, discard_stdout
from phichat.errors import OutputError, PhichatError, UsageError

_COMMANDS = (
    *("ask", "bench", "chat", "check", "doctor", "export", "fit", "link", "list", "path", "ps", "pull", "rm"),
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
    try:
        result = phichat.main(list(arguments), prog_name="phichat", standalone_mode=False)
        return int(result or ExitCode.DONE)
    except PhichatError as error:
        reported: PhichatError = error
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        help_command = f"`{context.command_path if context else 'phichat'} --help`"
        reported = UsageError(error.format_message().rstrip("."), f"See {help_command}")
    except StdoutClosed:
        return ExitCode.DONE
    except OSError as error:
        # No command handled it: for example a full disk under `phichat --help > FILE`.
        discard_stdout()
        reported = OutputError(f"System error: {error}", "Run with --debug for details")
    except click.Abort:
        return ExitCode.INTERRUPTED
    return Diagnostics().print_error(reported, debug="--debug" in arguments)
