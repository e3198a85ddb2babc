"""The pipeline that every front end consumes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from phichat.chat.session import Session
from phichat.code_report import TrainingScope
from phichat.codecheck.stream import check_code
from phichat.engine.backend import CancelToken
from phichat.events import Event
from phichat.types import SamplingParams

if TYPE_CHECKING:
    from phichat.chat.vote.majority import VoteConfig
    from phichat.transcript.recorder import Recorder


def run_turn(
    session: Session,
    prompt: str,
    params: SamplingParams,
    cancel: CancelToken,
    recorder: Recorder | None = None,
    training_scope: TrainingScope | None = None,
    vote_config: VoteConfig | None = None,
) -> Iterator[Event]:
    """One turn, checked against what the model was trained on and, with a recorder, kept.

    poll: ask several times, for the answer that most replies agree on. Raises what `Session.send` raises.
    """
    session_events = (
        session.send_with_vote(prompt, params, vote_config, cancel)
        if vote_config
        else session.send(prompt, params, cancel)
    )
    events = check_code(session_events, training_scope)
    return recorder.record_events(events) if recorder else events
