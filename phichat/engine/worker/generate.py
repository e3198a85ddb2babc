"""One reply: the prompt evaluated, tokens sampled, their text sent as it becomes certain."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from time import monotonic

from phichat.engine.protocol import Evaluating, Failure, Generate, Generated, Reply, Said
from phichat.engine.text import ReasoningSplitter, StopStrings, Utf8Stream
from phichat.engine.worker.model import Model
from phichat.engine.worker.prompt import Prompt
from phichat.engine.worker.schedule import Job, Steps
from phichat.engine.worker.sequences import Decoded, RequestFailed
from phichat.messages import FinishReason, Timings, Usage

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
    request: Generate,
    stops: Sequence[str],
    job: Job,
    make_room: Callable[[], bool],
    batch: Callable[[], int],
) -> Steps:
    """Answer a prompt, a batch or a token in each step.

    stops: the template's stop strings; those of the request are added. make_room: frees cells of the KV
    cache, False when there are none to have. batch: tokens to evaluate at once.
    Raises RequestFailed when the prompt leaves no room in the context or cannot be evaluated.
    """
    params, tokens, total = request.params, list(prompt.tokens), len(prompt.tokens)
    started, count, cached = job.received_at, 0, 0
    if total >= model.n_ctx:
        raise RequestFailed(Failure.OVERFLOW, "the prompt does not fit the context", total)

    def cancelled() -> Generated:
        return Generated(FinishReason.CANCELLED, Usage(total, cached, 0), Timings(prompt_s=monotonic() - started))

    while (sequence := model.sequences.take(tokens)) is None:
        if job.cancelled.is_set():
            return cancelled()
        yield False
    job.sequence = sequence

    def evaluate() -> Generator[bool, None, bool]:
        """Until the sequence holds all of tokens; False when cancelled."""
        while (done := len(sequence.cached)) < len(tokens):
            if job.cancelled.is_set():
                return False
            match sequence.decode(tokens[done : done + batch()]):
                case Decoded.DONE:
                    if count == 0:
                        job.send(Evaluating(len(sequence.cached), total, cached))
                    if len(sequence.cached) < len(tokens):
                        yield True
                case Decoded.CANCELLED:
                    return False
                case Decoded.NO_ROOM:
                    if not make_room():
                        yield False
        return True

    with contextlib.ExitStack() as cleaning:
        cleaning.callback(model.sequences.release, sequence)
        cached = len(sequence.cached)
        job.send(Evaluating(cached, total, cached))
        complete = yield from evaluate()
        model.synchronize()
        evaluated = monotonic()
        if not complete:
            return cancelled()
        voice = _Voice(model, prompt.end, (*stops, *params.stop), job.send)
        cleaning.callback(voice.close)
        sampler = model.sampler(params, request.seed, prompt.tokens)
        cleaning.callback(sampler.close)
        first = last = evaluated
        while True:
            token = sampler.next()
            if model.vocabulary.ends_generation(token):
                reason = FinishReason.STOP
                break
            count += 1
            last = monotonic()
            if count == 1:
                first = last
            tokens.append(token)
            voice.say(token)
            if voice.stopped:
                reason = FinishReason.STOP
                break
            if count == params.max_tokens or len(tokens) > model.n_ctx:
                reason = FinishReason.LENGTH
                break
            yield True
            if not (yield from evaluate()):
                reason = FinishReason.CANCELLED
                break
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
