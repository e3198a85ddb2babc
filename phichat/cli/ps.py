"""`phichat ps`: the running engines."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from phichat.cli.support.diagnostics import Diagnostics
from phichat.cli.support.options import create_default_context, debug_option, json_option
from phichat.cli.support.output import Output
from phichat.units import format_duration, format_size

if TYPE_CHECKING:
    from phichat.engine.daemon.running_engines import RunningEngine


@click.command()
@json_option
@debug_option
def ps(as_json: bool) -> None:
    """List running engines."""
    from phichat.services.daemon_service import list_engines

    documents = [_to_document(engine) for engine in list_engines(create_default_context())]
    if not documents and not as_json:
        Diagnostics().print_notice("No engine is running. `phichat ask` starts one and keeps it for the next question.")
    else:
        Output().write_result(documents, lambda: _format_engines(documents), as_json=as_json)


def _to_document(engine: RunningEngine) -> dict[str, Any]:
    status, loaded = engine.status, engine.loaded_model
    expires_at = None
    if status and loaded and status.expires_in_s is not None:
        expires_at = f"{datetime.now(UTC) + timedelta(seconds=status.expires_in_s):%Y-%m-%dT%H:%M:%SZ}"
    return {
        "pid": engine.pid,
        "model": loaded.model.name if loaded else None,
        "path": loaded.path if loaded else None,
        "memory": loaded.memory if loaded else None,
        "placement": loaded.placement if loaded else None,
        "n_ctx": loaded.model.n_ctx if loaded else None,
        "idle_s": round(status.idle_s, 1) if status else None,
        "expires_at": expires_at,
        "clients": status.clients if status else None,
        "state": "too busy to answer" if status is None else "ready" if loaded else "loading",
    }


def _format_engines(documents: Sequence[dict[str, Any]]) -> str:
    from phichat.cli.support.tables import format_table

    rows = [
        [
            one["model"] or "?",
            str(one["pid"]),
            format_size(one["memory"]) if one["memory"] else "?",
            one["placement"] or "?",
            "?" if one["idle_s"] is None else format_duration(one["idle_s"]),
            _format_expiry(one),
        ]
        for one in documents
    ]
    return format_table(["model", "pid", "memory", "placement", "idle", "until"], rows)


def _format_expiry(document: dict[str, Any]) -> str:
    if document["state"] == "ready" and document["expires_at"]:
        return f"{datetime.fromisoformat(document['expires_at']).astimezone():%H:%M:%S}"
    return "in use" if document["state"] == "ready" else str(document["state"])
