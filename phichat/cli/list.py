"""`phichat list`: the models that are here."""

from __future__ import annotations

from typing import Any

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.interrupt import cancel_on_sigint
from phichat.cli.support.options import create_context, create_default_context, debug_option
from phichat.cli.support.output import Output

JsonObjects = list[dict[str, Any]]

_RUNTIME_OVERHEAD_BYTES = 400_000_000
"""Bytes that a small context and the engine take; `phichat fit` says it exactly."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--endpoint", metavar="NAME", help="Ask the server of [endpoints.NAME] in config.toml instead.")
@debug_option
def list(as_json: bool, endpoint: str | None) -> int:
    """List the models that are on this machine, whatever program brought them here."""
    if endpoint is not None:
        return _list_endpoint_models(endpoint, as_json=as_json)
    from phichat.cli.support.tables import format_size, format_table
    from phichat.engine.planner.hardware import probe_memory
    from phichat.models.local.local_models import LocalModels

    library = LocalModels.from_paths(create_default_context().paths)
    free_memory = probe_memory().available
    documents: JsonObjects = []
    for model in library.models:
        facts = library.get_summary(model)
        verified_hash = library.hash_cache.get(model.path)
        speed = library.usage_log.last_speed(model.path)
        documents.append(
            {
                "name": model.name,
                "path": str(model.path),
                "size": model.size,
                "quantization": facts.quantization,
                "architecture": facts.architecture,
                "source": model.source,
                "sha256": verified_hash.sha256 if verified_hash else model.parts[0].sha256 or None,
                "verified_at": verified_hash.verified_at if verified_hash else None,
                "last_used_at": library.usage_log.last_used_at(model.path),
                "context_length": facts.context_length,
                "fits": model.size + _RUNTIME_OVERHEAD_BYTES <= free_memory,
                "tokens_per_second": speed.tokens_per_second if speed else None,
                "also_called": [*model.aliases],
                "problem": facts.problem or None,
                "damaged": facts.damaged,
            }
        )
    if as_json:
        Output().write_json(documents)
        return ExitCode.DONE
    if not documents:
        Diagnostics().print_notice("No model is installed; download one with `phichat pull phi-4-mini`.")
        return ExitCode.DONE
    rows = [
        [
            str(document["name"]),
            format_size(document["size"]),
            document["quantization"] or "?",
            document["source"],
            _format_date(document["last_used_at"]),
            _format_date(document["verified_at"]),
            _format_status(document),
        ]
        for document in documents
    ]
    Output().write_text(
        format_table(["name", "size", "quantization", "source", "last used", "verified", "state"], rows)
    )
    return ExitCode.DONE


def _list_endpoint_models(endpoint: str, *, as_json: bool) -> int:
    from phichat.cli.support.tables import format_table
    from phichat.services.backend_factory import BackendFactory

    with cancel_on_sigint() as cancel:
        models = BackendFactory(create_context()).list_endpoint_models(endpoint, cancel)
        if cancel.is_set():
            return ExitCode.INTERRUPTED
    if as_json:
        Output().write_json(
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
        Output().write_text(format_table(["name", "context", "owned by"], rows))
    else:
        Diagnostics().print_notice(f"{endpoint} has no model.")
    return ExitCode.DONE


def _format_status(document: dict[str, Any]) -> str:
    if document["damaged"]:
        return "damaged"
    if document["problem"]:
        return "no chat model"
    return "fits" if document["fits"] else "too large now"


def _format_date(timestamp: str | None) -> str:
    return timestamp[:10] if timestamp else "-"
