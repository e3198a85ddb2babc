"""One reply: the prompt evaluated, tokens sampled, their text sent as it becomes certain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

from phichat.engine.protocol import Evaluating, Failure, Generated, Reply, Said
from phichat.engine.text import ReasoningSplitter, StopStrings, Utf8Stream
from phichat.engine.worker.model import Model, RequestFailed
from phichat.engine.worker.prompt import Prompt
from phichat.messages import FinishReason, GenerationParams, Timings, Usage

_SENDING_S = 0.02
"""Text is sent this often at most: waking the supervisor for each token of a fast model takes a core
from the threads that compute the next one, and no reader sees the difference."""


class _Voice:
    """Token ids to what is sent: bytes, characters, stop strings, reasoning, in this order."""

    def __init__(self, model: Model, prompt_end: str, stops: Sequence[str], send: Callable[[Reply], None]) -> None:
        self._model, self._send = model, send
        self._utf8 = Utf8Stream()
        self._stops = StopStrings(stops)
        self._splitter = ReasoningSplitter(prompt_end)
        # SentencePiece writes the space before a word into the word, before the first one too.
        self._strips_space = model.vocabulary.is_spm
        self._reasoning = self._text = ""
        self._tokens = 0
        self._sent_at = 0.0

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self._stops.found

    def say(self, token: int) -> None:
        self._tokens += 1
        text = self._utf8.feed(self._model.vocabulary.piece(token))
        if self._strips_space and text:
            text, self._strips_space = text.removeprefix(" "), False
        self._gather(*self._splitter.feed(self._stops.feed(text)))
        if monotonic() - self._sent_at >= _SENDING_S:
            self._flush()

    def close(self) -> None:
        """Say what was held back; an unfinished character at the very end is no character."""
        self._gather(*self._splitter.feed(self._stops.close()))
        self._gather(*self._splitter.close())
        self._flush()

    def _gather(self, reasoning: str, text: str) -> None:
        self._reasoning += reasoning
        self._text += text

    def _flush(self) -> None:
        if self._reasoning or self._text:
            self._send(Said(self._reasoning, self._text, self._tokens))
            self._reasoning = self._text = ""
            self._tokens = 0
            self._sent_at = monotonic()


def reply(
    model: Model,
    prompt: Prompt,
    params: GenerationParams,
    seed: int,
    stops: Sequence[str],
    started: float,
    send: Callable[[Reply], None],
) -> Generated:
    """Answer a prompt.

    stops: the template's stop strings; those of params are added.
    started: `monotonic()` when the request came, for the timings.
    Raises RequestFailed when the prompt leaves no room in the context or cannot be evaluated.
    """
    total = len(prompt.tokens)
    if total >= model.n_ctx:
        raise RequestFailed(Failure.OVERFLOW, "the prompt does not fit the context", total)
    cached = model.keep_prefix(prompt.tokens)
    send(Evaluating(cached, total, cached))
    complete = model.evaluate(prompt.tokens[cached:], lambda done: send(Evaluating(done, total, cached)))
    model.synchronize()
    evaluated = monotonic()
    if not complete:
        return Generated(FinishReason.CANCELLED, Usage(total, cached, 0), Timings(prompt_s=evaluated - started))

    voice = _Voice(model, prompt.end, (*stops, *params.stop), send)
    sampler = model.sampler(params, seed, prompt.tokens)
    count, first, last = 0, evaluated, evaluated
    try:
        while True:
            token = sampler.next()
            if model.vocabulary.ends_generation(token):
                reason = FinishReason.STOP
                break
            count += 1
            last = monotonic()
            if count == 1:
                first = last
            voice.say(token)
            if voice.stopped:
                reason = FinishReason.STOP
                break
            if count == params.max_tokens or len(model.cached) >= model.n_ctx:
                reason = FinishReason.LENGTH
                break
            if not model.append(token):
                reason = FinishReason.CANCELLED
                break
    finally:
        sampler.close()
        voice.close()
    took = last - first
    return Generated(
        reason,
        Usage(total, cached, count),
        Timings(
            prompt_s=evaluated - started,
            first_token_s=first - started,
            generation_s=took,
            tokens_per_second=(count - 1) / took if count > 1 and took > 0 else 0.0,
        ),
    )
