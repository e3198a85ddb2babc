"""`phichat ps`: the engines that stay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.options import debug_option
from phichat.cli.support.output import Output
from phichat.paths import Paths

if TYPE_CHECKING:
    from phichat.engine.daemon.running_engines import RunningEngine


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@debug_option
def ps(as_json: bool) -> int:
    """List the engines that stay for the next question."""
    from phichat.cli.support.tables import format_size, format_table
    from phichat.services.composition import list_background_engines

    documents = [_to_document(one) for one in list_background_engines(Paths.from_environment())]
    if as_json:
        Output().write_json(documents)
        return ExitCode.DONE
    if not documents:
        Diagnostics().print_notice("No engine is there; `phichat ask` leaves one for the next question.")
        return ExitCode.DONE
    rows = [
        [
            document["model"] or "?",
            str(document["pid"]),
            format_size(document["memory"]) if document["memory"] else "?",
            document["placement"] or "?",
            _format_duration(document["idle_s"]),
            _format_expiry(document),
        ]
        for document in documents
    ]
    Output().write_text(format_table(["model", "pid", "memory", "placement", "idle", "until"], rows))
    return ExitCode.DONE


def _to_document(engine: RunningEngine) -> dict[str, Any]:
    status, model_info = engine.status, engine.loaded_model
    expires_in_s = status.expires_in_s if status else None
    expires_at = (
        None if expires_in_s is None or model_info is None else datetime.now(UTC) + timedelta(seconds=expires_in_s)
    )
    return {
        "pid": engine.pid,
        "model": model_info.model.name if model_info else None,
        "path": model_info.path if model_info else None,
        "memory": model_info.memory if model_info else None,
        "placement": model_info.placement if model_info else None,
        "n_ctx": model_info.model.n_ctx if model_info else None,
        "idle_s": round(status.idle_s, 1) if status else None,
        "expires_at": expires_at.strftime("%Y-%m-%dT%H:%M:%SZ") if expires_at else None,
        "clients": status.clients if status else None,
        "state": "too busy to answer" if status is None else "ready" if model_info else "loading",
    }


def _format_duration(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _format_expiry(document: dict[str, Any]) -> str:
    if document["state"] != "ready":
        return str(document["state"])
    if not document["expires_at"]:
        return "in use"
    return f"{datetime.fromisoformat(document['expires_at']).astimezone():%H:%M:%S}"
