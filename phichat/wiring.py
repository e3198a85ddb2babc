"""The composition root: which parts a run is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from phichat.chat.context import Turn
from phichat.chat.session import Session
from phichat.config import Config
from phichat.engine.local import LocalBackend
from phichat.engine.verdicts import Verdicts
from phichat.errors import ModelNotInstalled
from phichat.messages import ModelInfo
from phichat.models.resolve import resolve
from phichat.paths import Paths

if TYPE_CHECKING:
    from phichat.transcript.recorder import Recorder
    from phichat.transcript.records import ConversationRecord
    from phichat.transcript.store import Store

_RECORDING_PATIENCE_S = 2.0
"""How long an answer waits for another process that writes transcripts, before it goes on without."""


@dataclass(frozen=True, slots=True)
class Past:
    """A conversation to go on with. model: what answered last; path: where its file was, "" when not known."""

    conversation: ConversationRecord
    model: ModelInfo | None
    path: str

    def carried(self, config: Config, *, model: str | None, system: str | None) -> Config:
        """config with the conversation's model and system prompt, where no others were asked for.

        Raises ModelNotInstalled when its model is not here.
        """
        branch = self.conversation.branch()
        if system is None and branch:
            config = replace(config, system=branch[-1].system)
        if model is None and self.model is not None:
            config = replace(config, model=self._known_as(self.model.name, config.model))
        return config

    def _known_as(self, name: str, usual: str | None) -> str:
        for wanted in (name, self.path, usual):
            try:
                if wanted and resolve(wanted).name == name:
                    return wanted
            except ModelNotInstalled:
                continue
        raise ModelNotInstalled(
            f"The model of this conversation, {name}, is not installed", "install it, or go on with another one by -m"
        )

    def turns(self) -> list[Turn]:
        """The history: what got no answer at all is not in it."""
        return [Turn(turn.prompt, turn.text) for turn in self.conversation.branch() if turn.text]


def local_backend(config: Config, paths: Paths) -> LocalBackend:
    """The backend for the model of this run. Raises ModelNotInstalled."""
    model = resolve(config.model)
    return LocalBackend(model.name, model.path, config.engine, Verdicts(paths.engine_verdicts))


def session(config: Config, paths: Paths, past: Past | None = None) -> Session:
    """A conversation, new or gone on with. Raises ModelNotInstalled."""
    return Session(local_backend(config, paths), config.system, past.turns() if past else ())


def store(paths: Paths) -> Store:
    """The transcripts. Raises TranscriptError."""
    from phichat.transcript.store import Store

    return Store.open(paths.logs)


def past(paths: Paths, prefix: str | None) -> Past | None:
    """The conversation whose id begins so; for None the one last spoken in, None when there is none.

    Raises ConversationNotFound and TranscriptError.
    """
    kept = store(paths)
    try:
        found = kept.latest() if prefix is None else kept.find(prefix)
        if found is None:
            return None
        conversation = kept.conversation(found)
        model = next((turn.model for turn in reversed(conversation.branch()) if turn.model), None)
        return Past(conversation, model, kept.path_of(model) if model else "")
    finally:
        kept.close()


def recorder(config: Config, paths: Paths, past: Past | None = None) -> Recorder | None:
    """What keeps this run's turns; None when they are not to be kept."""
    if not config.log:
        return None
    from phichat.transcript.recorder import Recorder
    from phichat.transcript.store import Store

    def opened() -> Store:
        return Store.open(paths.logs, patience_s=_RECORDING_PATIENCE_S)

    if past is None:
        return Recorder(opened)
    return Recorder(opened, past.conversation.id, past.conversation.head)
