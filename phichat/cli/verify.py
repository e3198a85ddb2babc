"""`phichat verify`: whether the files of models are what they should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from phichat.cli.diagnostics import Diagnostics, ExitCode
from phichat.cli.interrupt import ctrl_c
from phichat.cli.options import debug_option
from phichat.cli.output import Output
from phichat.paths import Paths
from phichat.terminal import clean_line

if TYPE_CHECKING:
    from phichat.engine.cancel import Cancel
    from phichat.models.checking import Verified
    from phichat.models.finding import ModelFile
    from phichat.models.library import Library


@click.command()
@click.argument("model", required=False)
@click.option("--repair", "repairs", is_flag=True, help="Fetch what is damaged from the hub again.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@debug_option
def verify(model: str | None, repairs: bool, as_json: bool) -> int:
    """Read MODEL, or all that are installed, whole and compare with the sha256 that is known.

    Where none is known, the one that is found is remembered for the next time. Connects nowhere without
    --repair. Exits 1 when a file is not what it should be.
    """
    from phichat.models.checking import next_step
    from phichat.models.library import Library

    paths = Paths.find()
    library = Library.open(paths)
    diagnostics, output = Diagnostics(), Output()
    documents = []
    with ctrl_c() as cancel:
        for found in [library.resolve(model)] if model else library.installed:
            result = _verified(found, library, cancel, diagnostics)
            if result is not None and not result.ok and repairs:
                diagnostics.notice(f"{found.name}: {result.reason}.")
                _repair(found, library, paths, cancel, diagnostics)
                result = _verified(found, library, cancel, diagnostics)
            if result is None:
                return ExitCode.INTERRUPTED
            documents.append({"name": found.name, "path": str(found.path), "ok": result.ok, "reason": result.reason})
            if not as_json:
                output.text(f"{'ok' if result.ok else 'NOT OK':<8}{clean_line(found.name)}  {result.reason}".rstrip())
            if not result.ok:
                diagnostics.notice(f"{found.name} is not what it should be; {next_step(found)}.")
    if as_json:
        output.document(documents)
    return ExitCode.DONE if all(document["ok"] for document in documents) else ExitCode.ERROR


def _verified(model: ModelFile, library: Library, cancel: Cancel, diagnostics: Diagnostics) -> Verified | None:
    from phichat.models.checking import verify

    reading = verify(model, library.proofs, cancel)
    while True:
        try:
            diagnostics.progress(f"reading {model.name} {next(reading):.0%}")
        except StopIteration as end:
            diagnostics.clear_progress()
            result: Verified | None = end.value
            return result


def _repair(model: ModelFile, library: Library, paths: Paths, cancel: Cancel, diagnostics: Diagnostics) -> None:
    from phichat.models.pull import Proving
    from phichat.models.repairing import repair_model

    for step in repair_model(model, library.registry, paths, library.proofs, cancel):
        if isinstance(step, Proving):
            diagnostics.progress(f"reading {step.name} {step.fraction:.0%}")
        else:
            diagnostics.progress(f"fetching {model.name} {step.done / max(1, step.total):.0%}")
    diagnostics.clear_progress()
