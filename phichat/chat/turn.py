"""The pipeline that every front end consumes."""

from __future__ import annotations

from collections.abc import Iterator

from phichat.chat.session import Session
from phichat.code_report import CodeScope
from phichat.codecheck.stage import check_code
from phichat.engine.backend import Cancel
from phichat.events import Event
from phichat.messages import GenerationParams
from phichat.transcript.recorder import record


def run_turn(
    session: Session, prompt: str, params: GenerationParams, cancel: Cancel, scope: CodeScope | None = None
) -> Iterator[Event]:
    """One turn, checked against what the model was trained on, and recorded. Raises what `Session.send` raises."""
    return record(check_code(session.send(prompt, params, cancel), scope))
