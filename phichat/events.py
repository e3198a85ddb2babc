"""The stream that every front end and the transcript consume.

One turn is `TurnStarted`, then whatever happens, then exactly one `TurnFinished`; a turn that fails
yields its `TurnFinished` (with what was said until then) before the error is raised, so that a
consumer which only keeps text loses none. Consume with `match` and end with `assert_never`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from phichat.code_report import CodeReport
from phichat.types import FinishReason, ModelInfo, SamplingParams, Timings, Usage


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The user has spoken; nothing has been loaded or evaluated yet."""

    prompt: str
    system: str | None
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class ModelVerifying:
    """The model's file is read whole, because it is not yet, or no longer, proven to be what it should be.

    fraction: 0 to 1, of its bytes.
    """

    model: str
    fraction: float


@dataclass(frozen=True, slots=True)
class ModelLoading:
    """fraction: 0 to 1, of the file's tensors."""

    model: str
    fraction: float


@dataclass(frozen=True, slots=True)
class ModelReady:
    """A model stands in memory.

    n_ctx_train: tokens. load_s: seconds.
    notices: one-line remarks that a user should see once, foreign text in them not yet sanitised.
    """

    model: ModelInfo
    path: str
    n_ctx_train: int
    load_s: float
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ContextTrimmed:
    """Turns left out of the prompt because the context is too small, the oldest first.

    dropped_turns: how many; a turn is a user's message and its reply.
    prompt_tokens, n_ctx: what is sent, and the space there is.
    """

    dropped_turns: int
    prompt_tokens: int
    n_ctx: int


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """Prompt tokens evaluated so far (those found in the KV cache counted in), of all."""

    done: int
    total: int
    cached: int


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CodeChecked:
    """The code of the answer so far was checked; a later report replaces an earlier one."""

    report: CodeReport


@dataclass(frozen=True, slots=True)
class TranscriptUnavailable:
    """The transcript cannot be written, and the turn goes on without it; told once.

    reason: what is the matter and what to do, without a full stop, not yet sanitised.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class TurnFinished:
    """The whole turn: consumers compute nothing.

    dropped_turns, n_ctx: the context receipt, as in `ContextTrimmed`.
    seed: the one that was used, given or drawn.
    notices: one-line remarks on this turn that a user should see, foreign text in them not yet sanitised.
    """

    text: str
    reasoning: str
    finish_reason: FinishReason
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    n_ctx: int = 0
    dropped_turns: int = 0
    seed: int = 0
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SamplingProgress:
    """Several replies to one prompt are being written: so many of all are complete, so many tokens are written."""

    completed: int
    total: int
    tokens: int


@dataclass(frozen=True, slots=True)
class SampleFinished:
    """One of several replies to one prompt has ended, as a turn does. number: from 0."""

    index: int
    reply: TurnFinished


@dataclass(frozen=True, slots=True)
class AnswerGroup:
    """Samples whose answers mean the same.

    answer: as the first of them has it, None for those that have none. samples: their numbers.
    """

    answer: str | None
    samples: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class VoteResult:
    """The complete ones of several replies to one prompt were compared.

    by: what kind of answer. asked: for how many samples. groups: the largest first, those without an answer last.
    winner: the sample that is the turn's reply.
    """

    answer_kind: str
    requested: int
    groups: tuple[AnswerGroup, ...]
    winner: int

    @property
    def agreement(self) -> float:
        """The share of the complete samples that say what most of them say; 0 when none says anything."""
        largest = next((len(group.samples) for group in self.groups if group.answer is not None), 0)
        return largest / max(1, sum(len(group.samples) for group in self.groups))


Event = (
    TurnStarted
    | ModelVerifying
    | ModelLoading
    | ModelReady
    | ContextTrimmed
    | PromptProgress
    | ReasoningDelta
    | TextDelta
    | CodeChecked
    | TranscriptUnavailable
    | SamplingProgress
    | SampleFinished
    | VoteResult
    | TurnFinished
)
