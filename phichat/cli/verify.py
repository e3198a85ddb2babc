"""`phichat verify`: whether the files of models are what they should be."""

from __future__ import annotations

import click

from phichat.cli.diagnostics import Diagnostics, ExitCode
from phichat.cli.interrupt import ctrl_c
from phichat.cli.options import debug_option
from phichat.cli.output import Output
from phichat.paths import Paths
from phichat.terminal import clean_line


@click.command()
@click.argument("model", required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@debug_option
def verify(model: str | None, as_json: bool) -> int:
    """Read MODEL, or all that are installed, whole and compare with the sha256 that is known. Connects nowhere.

    Where none is known, the one that is found is remembered for the next time. Exits 1 when a file is not
    what it should be.
    """
    from phichat.models.checking import next_step
    from phichat.models.checking import verify as verify_model
    from phichat.models.library import Library

    library = Library.open(Paths.find())
    diagnostics, output = Diagnostics(), Output()
    documents = []
    with ctrl_c() as cancel:
        for found in [library.resolve(model)] if model else library.installed:
            reading = verify_model(found, library.proofs, cancel)
            while True:
                try:
                    diagnostics.progress(f"reading {found.name} {next(reading):.0%}")
                except StopIteration as end:
                    result = end.value
                    break
            diagnostics.clear_progress()
            if result is None:
                return ExitCode.INTERRUPTED
            document = {"name": found.name, "path": str(found.path), "ok": result.ok, "reason": result.reason}
            documents.append(document)
            if not as_json:
                output.text(f"{'ok' if result.ok else 'NOT OK':<8}{clean_line(found.name)}  {result.reason}".rstrip())
            if not result.ok:
                diagnostics.notice(f"{found.name} is not what it should be; {next_step(found)}.")
    if as_json:
        output.document(documents)
    return ExitCode.DONE if all(document["ok"] for document in documents) else ExitCode.ERROR
