"""The stream of events that every front end and the transcript consume.

One turn is `TurnStarted`, then any others, then exactly one `TurnFinished`; a turn that fails yields its `TurnFinished`
(with the text so far) before the error is raised, so that a consumer which only collects text loses none. Consume them
with a `chat.presenter.TurnPresenter`.
"""

from dataclasses import dataclass, field

from phichat.code_report import CodeReport
from phichat.types import FinishReason, ModelInfo, Part, SamplingParams, Timings, Usage


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """The user sent a prompt; nothing has been loaded or evaluated yet.

    prompt: the text that the model is sent. prompt_parts: what it was rendered from, () where that is the same text.
    """

    prompt: str
    system: str | None
    params: SamplingParams
    prompt_parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelVerifying:
    """The model's file is hashed, as it is new or has changed. fraction: 0 to 1, of its bytes."""

    model: str
    fraction: float


@dataclass(frozen=True, slots=True)
class ModelLoading:
    """The model is loaded into memory. fraction: 0 to 1, of the file's tensors."""

    model: str
    fraction: float


@dataclass(frozen=True, slots=True)
class ModelReady:
    """The model is in memory. n_ctx_train: tokens. load_s: seconds.

    notices: one-line remarks that a user should see once, not yet sanitised.
    """

    model: ModelInfo
    path: str
    n_ctx_train: int
    load_s: float
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ContextTrimmed:
    """Turns left out of the prompt because the context is too small, the oldest first.

    dropped_turns: their number. prompt_tokens, n_ctx: tokens of the prompt that is sent, and of the context.
    """

    dropped_turns: int
    prompt_tokens: int
    n_ctx: int


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """Prompt tokens evaluated so far (including those that the KV cache held), of all."""

    done: int
    total: int
    cached: int


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the model's reasoning before its answer."""

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
    """The transcript cannot be written, and the turn continues without it; sent once per conversation.

    reason: the error and its remedy, without the last full stop, not yet sanitised.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class TurnFinished:
    """The end of a turn, with its whole reply. dropped_turns, n_ctx: as in `ContextTrimmed`.

    seed: the one that was used, given or drawn.
    notices: one-line remarks on this turn that a user should see, not yet sanitised.
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
    """Several replies to one prompt are generated: how many of all are complete, and how many tokens in total."""

    completed: int
    total: int
    tokens: int


@dataclass(frozen=True, slots=True)
class SampleFinished:
    """One of several replies to one prompt ended. index: of the sample, from 0."""

    index: int
    reply: TurnFinished


@dataclass(frozen=True, slots=True)
class AnswerGroup:
    """Samples with equal answers. answer: in the words of the first, None without an answer. samples: their indices."""

    answer: str | None
    samples: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class VoteResult:
    """The complete samples of one prompt were compared. requested: the number of samples.

    groups: the largest first, samples without an answer last.
    winner: index of the sample that is the turn's reply.
    """

    answer_kind: str
    requested: int
    groups: tuple[AnswerGroup, ...]
    winner: int

    @property
    def agreement(self) -> float:
        """The share of the complete samples that is in the largest group; 0 when none has an answer."""
        largest = next((len(group.samples) for group in self.groups if group.answer is not None), 0)
        return largest / max(1, sum(len(group.samples) for group in self.groups))


_Loading = ModelVerifying | ModelLoading | ModelReady
_Generation = ContextTrimmed | PromptProgress | ReasoningDelta | TextDelta
_Voting = SamplingProgress | SampleFinished | VoteResult
Event = TurnStarted | _Loading | _Generation | CodeChecked | TranscriptUnavailable | _Voting | TurnFinished
