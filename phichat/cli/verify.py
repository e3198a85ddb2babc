"""`phichat verify`: whether the files of models are what they should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.interrupt import cancel_on_sigint
from phichat.cli.support.options import debug_option
from phichat.cli.support.output import Output
from phichat.paths import Paths
from phichat.sanitize import sanitize_line

if TYPE_CHECKING:
    from phichat.cancel import CancelToken
    from phichat.models.local.discovery import ModelFile
    from phichat.models.local.local_models import LocalModels
    from phichat.models.local.verification import VerifyResult


@click.command()
@click.argument("model", required=False)
@click.option("--repair", "repair", is_flag=True, help="Fetch what is damaged from the hub again.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@debug_option
def verify(model: str | None, repair: bool, as_json: bool) -> int:
    """Read MODEL, or all that are installed, whole and compare with the sha256 that is known.

    Where none is known, the one that is found is remembered for the next time. Connects nowhere without
    --repair. Exits 1 when a file is not what it should be.
    """
    from phichat.models.local.local_models import LocalModels
    from phichat.models.local.verification import suggest_fix

    paths = Paths.from_environment()
    library = LocalModels.from_paths(paths)
    diagnostics, output = Diagnostics(), Output()
    documents = []
    with cancel_on_sigint() as cancel:
        for model_file in [library.resolve_model(model)] if model else library.models:
            result = _verify_model(model_file, library, cancel, diagnostics)
            if result is not None and not result.ok and repair:
                diagnostics.print_notice(f"{model_file.name}: {result.reason}.")
                _repair_model(model_file, library, paths, cancel, diagnostics)
                result = _verify_model(model_file, library, cancel, diagnostics)
            if result is None:
                return ExitCode.INTERRUPTED
            documents.append(
                {"name": model_file.name, "path": str(model_file.path), "ok": result.ok, "reason": result.reason}
            )
            if not as_json:
                output.write_text(
                    f"{'ok' if result.ok else 'NOT OK':<8}{sanitize_line(model_file.name)}  {result.reason}".rstrip()
                )
            if not result.ok:
                diagnostics.print_notice(f"{model_file.name} is not what it should be; {suggest_fix(model_file)}.")
    if as_json:
        output.write_json(documents)
    return ExitCode.DONE if all(document["ok"] for document in documents) else ExitCode.ERROR


def _verify_model(
    model: ModelFile, library: LocalModels, cancel: CancelToken, diagnostics: Diagnostics
) -> VerifyResult | None:
    from phichat.models.local.verification import verify_model

    progress = verify_model(model, library.hash_cache, cancel)
    while True:
        try:
            diagnostics.show_progress(f"reading {model.name} {next(progress):.0%}")
        except StopIteration as end:
            diagnostics.clear_progress()
            result: VerifyResult | None = end.value
            return result


def _repair_model(
    model: ModelFile, library: LocalModels, paths: Paths, cancel: CancelToken, diagnostics: Diagnostics
) -> None:
    from phichat.models.download.model_download import VerifyProgress
    from phichat.models.local.repair import repair_model

    for step in repair_model(model, library.registry, paths, library.hash_cache, cancel):
        if isinstance(step, VerifyProgress):
            diagnostics.show_progress(f"reading {step.name} {step.fraction:.0%}")
        else:
            diagnostics.show_progress(f"fetching {model.name} {step.done_bytes / max(1, step.total_bytes):.0%}")
    diagnostics.clear_progress()
