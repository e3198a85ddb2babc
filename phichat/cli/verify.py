"""`phichat verify`: check the files of models against their hashes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.interrupt import cancel_on_sigint
from phichat.cli.support.options import create_default_context, debug_option, json_option
from phichat.cli.support.output import Output
from phichat.sanitize import sanitize_line

if TYPE_CHECKING:
    from phichat.cancel import CancelToken
    from phichat.models.local.discovery import ModelFile
    from phichat.models.local.local_models import LocalModels
    from phichat.models.local.verification import VerifyResult


@click.command()
@click.argument("model", required=False)
@click.option("--repair", "repair", is_flag=True, help="Download damaged parts from the hub again.")
@json_option
@debug_option
def verify(model: str | None, repair: bool, as_json: bool) -> int:
    """Verify MODEL (or all models) against the recorded SHA-256.

    If none is known, the current one is recorded. Makes no connection without --repair. Exits with 1 if a file does
    not match.
    """
    from phichat.models.download.progress import VerifyProgress
    from phichat.models.local.local_models import LocalModels
    from phichat.models.local.verification import suggest_fix
    from phichat.services.model_downloads import ModelDownloads

    context = create_default_context()
    models = LocalModels.from_paths(context.paths)
    diagnostics, output = Diagnostics(), Output()
    documents = []
    with cancel_on_sigint() as cancel:
        for file in [models.resolve_model(model)] if model else models.models:
            result = _verify_model(file, models, cancel, diagnostics)
            if result is not None and not result.ok and repair:
                diagnostics.print_notice(f"{file.name}: {result.reason}.")
                for step in ModelDownloads(context).repair(file, models, cancel):
                    action = "verifying" if isinstance(step, VerifyProgress) else "downloading"
                    diagnostics.show_progress(f"{action} {file.name} {step.fraction:.0%}")
                diagnostics.clear_progress()
                result = _verify_model(file, models, cancel, diagnostics)
            if result is None:
                return ExitCode.INTERRUPTED
            documents.append({"name": file.name, "path": str(file.path), "ok": result.ok, "reason": result.reason})
            if not as_json:
                state = "ok" if result.ok else "NOT OK"
                output.write_text(f"{state:<8}{sanitize_line(file.name)}  {result.reason}".rstrip())
            if not result.ok:
                diagnostics.print_notice(f"{file.name} does not match its SHA-256. {suggest_fix(file)}.")
    if as_json:
        output.write_json(documents)
    return ExitCode.DONE if all(document["ok"] for document in documents) else ExitCode.ERROR


def _verify_model(
    file: ModelFile, models: LocalModels, cancel: CancelToken, diagnostics: Diagnostics
) -> VerifyResult | None:
    from phichat.models.local.verification import VerifyResult, verify_model

    result = None
    for step in verify_model(file, models.hash_cache, cancel):
        if isinstance(step, VerifyResult):
            result = step
        else:
            diagnostics.show_progress(f"verifying {file.name} {step:.0%}")
    diagnostics.clear_progress()
    return result
