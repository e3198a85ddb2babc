"""Values of a transcript, which the store reads and writes, exporters write and importers read.

Turns form a tree: a regenerated reply and an edited prompt are siblings of the turn before, with
the same parent. Nothing is ever overwritten.
"""

from dataclasses import dataclass
from datetime import datetime

from phichat.code_report import CodeReport
from phichat.types import FilePart, FinishReason, ModelInfo, Part, SamplingParams, TextPart, Timings, Usage


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """A prompt and its reply.

    parent: the id of the turn before it, None for a first one. Times are UTC.
    finish_reason: None where the reply did not end: it was cut off by a crash, or is being written.
    seed: the one that was used, None where that is not known.
    dropped_turns: the oldest turns of its branch that the model did not see.
    error: the reason why the reply failed, "" where it did not.
    live: a process is writing the reply; its text may be up to 250 ms old.
    prompt: the text that the model was sent. prompt_parts: what it was rendered from, () where that is the same text.
    """

    id: str
    parent: str | None
    created_at: datetime
    prompt: str
    text: str = ""
    reasoning: str = ""
    system: str | None = None
    finished_at: datetime | None = None
    finish_reason: FinishReason | None = None
    error: str = ""
    model: ModelInfo | None = None
    params: SamplingParams | None = None
    seed: int | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    n_ctx: int = 0
    dropped_turns: int = 0
    code: CodeReport | None = None
    live: bool = False
    prompt_parts: tuple[Part, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """The text and the files of the prompt."""
        return self.prompt_parts or (TextPart(self.prompt),)

    @property
    def title_text(self) -> str:
        """The text that a title is made from: the user's own words, or else the name of the first file."""
        texts = [part.text for part in self.parts if isinstance(part, TextPart)]
        return "\n".join(texts) or next((part.name for part in self.parts if isinstance(part, FilePart)), "")

    @property
    def is_cut_off(self) -> bool:
        """True where the reply ends because its writer died."""
        return self.finish_reason is None and not self.live


@dataclass(frozen=True, slots=True)
class ConversationRecord:
    """A conversation with all its turns, ordered by id, which sorts by time.

    head: the last turn of the branch that is shown; None where there are no turns. origin: the source of an imported
    one and its id there, such as "llm:01jd…"; "" for phichat's own. A store holds each origin once.
    """

    id: str
    title: str
    created_at: datetime
    updated_at: datetime
    turns: tuple[TurnRecord, ...] = ()
    head: str | None = None
    origin: str = ""

    def get_branch(self, turn: str | None = None) -> tuple[TurnRecord, ...]:
        """Return the turns from the first one to `turn`, by default to the head."""
        by_id = {record.id: record for record in self.turns}
        path: list[TurnRecord] = []
        current = by_id.get(turn or self.head or "")
        while current is not None:
            path.append(current)
            current = by_id.get(current.parent or "")
        return tuple(reversed(path))


@dataclass(frozen=True, slots=True)
class ConversationSummary:
    """One line of a list. model: of the head, "" where it has none; turns: on all branches."""

    id: str
    title: str
    model: str
    created_at: datetime
    updated_at: datetime
    turns: int


@dataclass(frozen=True, slots=True)
class ModelStats:
    """Turns and tokens of one model."""

    model: str
    turns: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Size of a store. size: bytes of its file; cut_off: replies without an end."""

    path: str
    size: int
    conversations: int
    turns: int
    cut_off: int
    models: tuple[ModelStats, ...]
