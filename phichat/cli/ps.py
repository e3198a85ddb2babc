"""`phichat ps`: the engines that stay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from phichat.cli.diagnostics import Diagnostics, ExitCode
from phichat.cli.options import debug_option
from phichat.cli.output import Output
from phichat.paths import Paths

if TYPE_CHECKING:
    from phichat.engine.resident.listing import Resident


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@debug_option
def ps(as_json: bool) -> int:
    """List the engines that stay for the next question."""
    from phichat.cli.tables import size, table
    from phichat.wiring import engines_that_stay

    documents = [_document(one) for one in engines_that_stay(Paths.find())]
    if as_json:
        Output().document(documents)
        return ExitCode.DONE
    if not documents:
        Diagnostics().notice("No engine is there; `phichat ask` leaves one for the next question.")
        return ExitCode.DONE
    rows = [
        [
            document["model"] or "?",
            str(document["pid"]),
            size(document["memory"]) if document["memory"] else "?",
            document["placement"] or "?",
            _span(document["idle_s"]),
            _until(document),
        ]
        for document in documents
    ]
    Output().text(table(["model", "pid", "memory", "placement", "idle", "until"], rows))
    return ExitCode.DONE


def _document(one: Resident) -> dict[str, Any]:
    state, card = one.state, one.card
    expires = state.expires_in_s if state else None
    moment = None if expires is None or card is None else datetime.now(UTC) + timedelta(seconds=expires)
    return {
        "pid": one.pid,
        "model": card.model.name if card else None,
        "path": card.path if card else None,
        "memory": card.memory if card else None,
        "placement": card.placement if card else None,
        "n_ctx": card.model.n_ctx if card else None,
        "idle_s": round(state.idle_s, 1) if state else None,
        "expires_at": moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else None,
        "clients": state.clients if state else None,
        "state": "too busy to answer" if state is None else "ready" if card else "loading",
    }


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _until(document: dict[str, Any]) -> str:
    if document["state"] != "ready":
        return str(document["state"])
    if not document["expires_at"]:
        return "in use"
    return f"{datetime.fromisoformat(document['expires_at']).astimezone():%H:%M:%S}"
