"""`phichat pull`: download a model."""

from __future__ import annotations

import re
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.download_progress import DownloadReporter
from phichat.cli.support.options import create_context, debug_option, yes_option
from phichat.cli.support.output import Output
from phichat.errors import ModelDoesNotFit, UsageError
from phichat.paths import expand_user

if TYPE_CHECKING:
    from phichat.services.model_downloads import DownloadFacts


@click.command()
@click.argument("spec")
@click.option("--sha256", default="", metavar="HEX", help="Expected SHA-256 of a file from an https URL.")
@click.option("--force", is_flag=True, help="Download even if it does not fit this machine.")
@yes_option
@click.option("--insecure", is_flag=True, help="Allow plain http.")
@click.option("--offline", is_flag=True, help="Make no connection; only report whether it is already downloaded.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
@debug_option
def pull(spec: str, sha256: str, force: bool, yes: bool, insecure: bool, offline: bool, as_json: bool) -> int:
    """Download the model named by SPEC, resuming a partial download.

    SPEC is a registry name, owner/repo (its Q4_K_M file), owner/repo:QUANT, owner/repo/file.gguf, the URL of a page
    of the hub, or the https URL of a GGUF file anywhere.
    """
    from phichat.cancel import CancelToken
    from phichat.models.registry import missing_file_error
    from phichat.models.spec import PathSpec
    from phichat.services.model_downloads import DownloadDone, ModelDownloads

    diagnostics = Diagnostics()
    downloads = ModelDownloads(create_context())
    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UsageError(f"{sha256!r} is not a SHA-256 hash", "Give 64 hexadecimal digits")
    if isinstance(reference := downloads.parse(spec), PathSpec):
        if not expand_user(reference.path).exists():
            raise missing_file_error(reference.path)
        diagnostics.print_notice(
            f"{spec} is a local file and needs no download. `phichat link {spec}` gives it a name."
        )
        return ExitCode.DONE

    def confirm(facts: DownloadFacts) -> bool:
        diagnostics.print_notice(*facts.describe())
        return facts.does_not_fit is None or _confirm_large(facts.does_not_fit, diagnostics, force=force or yes)

    reporter = DownloadReporter(diagnostics, Output() if as_json else None)
    events = downloads.download(
        spec, confirm, CancelToken(), sha256=sha256.lower(), allow_http=insecure, is_offline=offline
    )
    event = None
    try:
        with closing(events):
            for event in events:
                reporter.report(event)
    except KeyboardInterrupt:
        diagnostics.print_notice("Stopped. Run the same command to resume.")
        return ExitCode.INTERRUPTED
    return ExitCode.DONE if isinstance(event, DownloadDone) else ExitCode.DOES_NOT_FIT


def _confirm_large(error: ModelDoesNotFit, diagnostics: Diagnostics, *, force: bool) -> bool:
    """Ask whether to download a model that does not fit. Raises the error if stdin or stderr is not a terminal."""
    if force:
        diagnostics.print_notice(f"{error.message}. Downloading it anyway.")
        return True
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr and sys.stderr.isatty()):
        raise ModelDoesNotFit(error.message, f"{error.next_step}, or download it anyway with --force") from error
    diagnostics.print_notice(str(error))
    return click.confirm("Download it anyway?", default=False, err=True)
