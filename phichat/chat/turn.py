"""The pipeline that every front end consumes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from phichat.chat.session import Session
from phichat.code_report import CodeScope
from phichat.codecheck.stage import check_code
from phichat.engine.backend import Cancel
from phichat.events import Event
from phichat.messages import GenerationParams

if TYPE_CHECKING:
    from phichat.chat.voting import Poll
    from phichat.transcript.recorder import Recorder


def run_turn(
    session: Session,
    prompt: str,
    params: GenerationParams,
    cancel: Cancel,
    recorder: Recorder | None = None,
    scope: CodeScope | None = None,
    poll: Poll | None = None,
) -> Iterator[Event]:
    """One turn, checked against what the model was trained on and, with a recorder, kept.

    poll: ask several times, for the answer that most replies agree on. Raises what `Session.send` raises.
    """
    sent = session.vote(prompt, params, poll, cancel) if poll else session.send(prompt, params, cancel)
    events = check_code(sent, scope)
    return recorder.record(events) if recorder else events
