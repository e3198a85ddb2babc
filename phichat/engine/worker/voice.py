"""One reply as it is written: tokens sampled, their text sent as it becomes certain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

from phichat.engine.protocol import Generated, Said
from phichat.engine.text import ReasoningSplitter, StopStrings, Utf8Stream
from phichat.engine.worker.model import Model
from phichat.engine.worker.prompt import Prompt
from phichat.messages import FinishReason, GenerationParams, Timings, Usage

_SENDING_S = 0.02
"""Text is sent this often at most: waking the supervisor for each token of a fast model takes a core
from the threads that compute the next one, and no reader sees the difference."""


class Voice:
    """Token ids to what is sent: bytes, characters, stop strings, reasoning, in this order."""

    def __init__(self, model: Model, prompt_end: str, stops: Sequence[str], send: Callable[[Said], None]) -> None:
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


class Writer:
    """Samples one reply from the logits of its prompt, and of each token that it has chosen. Close it after use.

    tokens: the prompt's, and those of the reply.
    """

    def __init__(
        self,
        model: Model,
        prompt: Prompt,
        params: GenerationParams,
        seed: int,
        stops: Sequence[str],
        send: Callable[[Said], None],
    ) -> None:
        """stops: the template's stop strings; those of the params are added."""
        self._model, self._most = model, params.max_tokens
        self._prompt_size = len(prompt.tokens)
        self.tokens = list(prompt.tokens)
        self._voice = Voice(model, prompt.end, (*stops, *params.stop), send)
        self._sampler = model.sampler(params, seed, prompt.tokens)
        self._first_at = self._last_at = 0.0

    @property
    def count(self) -> int:
        """Tokens of the reply."""
        return len(self.tokens) - self._prompt_size

    @property
    def left(self) -> int:
        """Tokens that may still be chosen, but for the one that ends it."""
        return (self._most or self._model.n_ctx) - self.count - 1

    def next(self, at: int = -1) -> FinishReason | None:
        """Choose a token from the logits at that place of the batch; the reason when the reply ends with that."""
        token = self._sampler.next(at)
        if self._model.vocabulary.ends_generation(token):
            return FinishReason.STOP
        self._last_at = monotonic()
        self._first_at = self._first_at or self._last_at
        self.tokens.append(token)
        self._voice.say(token)
        if self._voice.stopped:
            return FinishReason.STOP
        if self.count == self._most or len(self.tokens) > self._model.n_ctx:
            return FinishReason.LENGTH
        return None

    def generated(
        self,
        reason: FinishReason,
        cached: int,
        started: float,
        evaluated: float,
        restore_s: float = 0.0,
        wait_s: float = 0.0,
    ) -> Generated:
        """What the reply was.

        started, evaluated: when it was asked for, and when its prompt was evaluated; restore_s, wait_s: seconds
        between them that went elsewhere.
        """
        took = self._last_at - self._first_at
        return Generated(
            reason,
            Usage(self._prompt_size, cached, self.count),
            Timings(
                prompt_s=evaluated - started - restore_s - wait_s,
                first_token_s=(self._first_at or evaluated) - started,
                generation_s=took,
                tokens_per_second=(self.count - 1) / took if self.count > 1 and took > 0 else 0.0,
                restore_s=restore_s,
                wait_s=wait_s,
            ),
        )

    def close(self) -> None:
        """Say what was held back, and free the sampler."""
        self._voice.close()
        self._sampler.close()
