"""`phichat list`: the models that are here."""

from __future__ import annotations

from typing import Any

import click

from phichat.cli.diagnostics import Diagnostics, ExitCode
from phichat.cli.interrupt import ctrl_c
from phichat.cli.options import configure, debug_option
from phichat.cli.output import Output
from phichat.paths import Paths

Documents = list[dict[str, Any]]

_BESIDE_WEIGHTS = 400_000_000
"""Bytes that a small context and the engine take; `phichat fit` says it exactly."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--endpoint", metavar="NAME", help="Ask the server of [endpoints.NAME] in config.toml instead.")
@debug_option
def list(as_json: bool, endpoint: str | None) -> int:
    """List the models that are on this machine, whatever program brought them here."""
    if endpoint is not None:
        return _served(endpoint, as_json=as_json)
    from phichat.cli.tables import size, table
    from phichat.engine.hardware import probe_memory
    from phichat.models.library import Library

    library = Library.open(Paths.find())
    free = probe_memory().available
    documents: Documents = []
    for model in library.installed:
        facts = library.facts(model)
        proof = library.proofs.known(model.path)
        speed = library.used.speed(model.path)
        documents.append(
            {
                "name": model.name,
                "path": str(model.path),
                "size": model.size,
                "quantization": facts.quantization,
                "architecture": facts.architecture,
                "source": model.source,
                "sha256": proof.sha256 if proof else model.parts[0].sha256 or None,
                "verified_at": proof.verified_at if proof else None,
                "last_used_at": library.used.at(model.path),
                "context_length": facts.context_length,
                "fits": model.size + _BESIDE_WEIGHTS <= free,
                "tokens_per_second": speed.tokens_per_second if speed else None,
                "also_called": [*model.also_called],
                "problem": facts.problem or None,
                "damaged": facts.damaged,
            }
        )
    if as_json:
        Output().document(documents)
        return ExitCode.DONE
    if not documents:
        Diagnostics().notice("No model is installed; download one with `phichat pull phi-4-mini`.")
        return ExitCode.DONE
    rows = [
        [
            str(document["name"]),
            size(document["size"]),
            document["quantization"] or "?",
            document["source"],
            _day(document["last_used_at"]),
            _day(document["verified_at"]),
            _state(document),
        ]
        for document in documents
    ]
    Output().text(table(["name", "size", "quantization", "source", "last used", "verified", "state"], rows))
    return ExitCode.DONE


def _served(endpoint: str, *, as_json: bool) -> int:
    from phichat.cli.tables import table
    from phichat.wiring import endpoint_models

    with ctrl_c() as cancel:
        models = endpoint_models(configure(Paths.find()), endpoint, cancel)
        if cancel.is_set():
            return ExitCode.INTERRUPTED
    if as_json:
        Output().document(
            [
                {
                    "name": f"{endpoint}/{model.id}",
                    "id": model.id,
                    "context_length": model.n_ctx or None,
                    "owned_by": model.owned_by or None,
                }
                for model in models
            ]
        )
    elif models:
        rows = [
            [f"{endpoint}/{model.id}", f"{model.n_ctx:,}" if model.n_ctx else "?", model.owned_by or "?"]
            for model in models
        ]
        Output().text(table(["name", "context", "owned by"], rows))
    else:
        Diagnostics().notice(f"{endpoint} has no model.")
    return ExitCode.DONE


def _state(document: dict[str, Any]) -> str:
    if document["damaged"]:
        return "damaged"
    if document["problem"]:
        return "no chat model"
    return "fits" if document["fits"] else "too large now"


def _day(moment: str | None) -> str:
    return moment[:10] if moment else "-"
