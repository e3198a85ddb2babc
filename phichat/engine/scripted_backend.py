"""Backend that replays scripted replies, for tests and documentation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import sleep

from phichat.engine.backend import CancelToken, GenerationEvent, LoadEvent, SampleEvent
from phichat.engine.parallel_sampling import derive_seeds, sample_sequentially
from phichat.errors import EngineError
from phichat.events import ModelLoading, ModelReady, PromptProgress, ReasoningDelta, TextDelta, TurnFinished
from phichat.types import FinishReason, Message, ModelInfo, SamplingParams, Usage


@dataclass(frozen=True, slots=True)
class ScriptedReply:
    """One scripted reply: reasoning, then pieces of text, then an error if given.
    delay_s: seconds before each piece."""

    text: Sequence[str] = ()
    reasoning: Sequence[str] = ()
    error: EngineError | None = None
    delay_s: float = 0.0


@dataclass
class ScriptedBackend:
    """Backend that gives its replies in order, the last one repeatedly. A token is a word.
    prompts: the messages of each request so far."""

    replies: Sequence[ScriptedReply]
    context: int = 4096
    notices: tuple[str, ...] = ()
    prompts: list[tuple[Message, ...]] = field(default_factory=list)
    name: str = "scripted"
    _is_loaded: bool = False

    @property
    def n_ctx(self) -> int:
        return self.context

    def load(self, cancel: CancelToken) -> Iterator[LoadEvent]:
        if self._is_loaded:
            return
        for fraction in (0.5, 1.0):
            if cancel.is_set():
                return
            yield ModelLoading(self.name, fraction)
        self._is_loaded = True
        model = ModelInfo(self.name, architecture="scripted", n_ctx=self.context, n_layers=1)
        yield ModelReady(model, "", self.context, 0.0, self.notices)

    def count_tokens(self, messages: Sequence[Message], cancel: CancelToken) -> int:
        return sum(len(message.text.split()) for message in messages)

    def generate(
        self, messages: Sequence[Message], params: SamplingParams, cancel: CancelToken, conversation_id: str = ""
    ) -> Iterator[GenerationEvent]:
        reply = self.replies[min(len(self.prompts), len(self.replies) - 1)]
        self.prompts.append(tuple(messages))
        total = self.count_tokens(messages, cancel)
        yield PromptProgress(total, total, 0)
        script: list[ReasoningDelta | TextDelta] = [*map(ReasoningDelta, reply.reasoning), *map(TextDelta, reply.text)]
        count = 0
        for delta in script:
            if reply.delay_s:
                sleep(reply.delay_s)
            if cancel.is_set():
                break
            count += 1
            yield delta
        reason = FinishReason.CANCELLED if cancel.is_set() else FinishReason.STOP
        if reply.error:
            reason, self._is_loaded = FinishReason.ERROR, False
        text = "".join(delta.text for delta in script[:count] if isinstance(delta, TextDelta))
        reasoning = "".join(delta.text for delta in script[:count] if isinstance(delta, ReasoningDelta))
        usage = Usage(total, 0, count)
        yield TurnFinished(text, reasoning, reason, usage, n_ctx=self.context, seed=params.seed or 0)
        if reply.error:
            raise reply.error

    def generate_n(
        self, messages: Sequence[Message], params: SamplingParams, n: int, cancel: CancelToken
    ) -> Iterator[SampleEvent]:
        seeds = dict(enumerate(derive_seeds(params, n)))
        return sample_sequentially(self.generate, messages, params, seeds, cancel, n)

    def close(self) -> None:
        self._is_loaded = False

    unload = close
