"""Detokenizer of a reply: tokens are sampled, and their text is sent as soon as it is certain."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from phichat.engine.ipc.protocol import GenerationFinished, OutputDelta
from phichat.engine.stream_filters import ReasoningSplitter, StopStringFilter, make_utf8_decoder
from phichat.engine.worker.model import Model, Sampler
from phichat.engine.worker.prompt import TokenizedPrompt
from phichat.types import FinishReason, SamplingParams, Timings, Usage

_FLUSH_INTERVAL_S = 0.02
"""Between two deltas at least: waking the supervisor for each token of a fast model takes a core from the threads that
compute the next one, and no reader sees the difference."""

SendDelta = Callable[[OutputDelta], None]


class ReplyGenerator:
    """Samples one reply, token by token, and sends its text in deltas. Close it after use.

    send: called from `sample_next` and `close`. tokens: of the prompt and the reply so far.
    """

    def __init__(
        self, model: Model, prompt: TokenizedPrompt, params: SamplingParams, seed: int, send: SendDelta
    ) -> None:
        self._model, self._max_tokens, self._prompt_length = model, params.max_tokens, len(prompt.tokens)
        self.tokens = list(prompt.tokens)
        self._sampler = Sampler(model, params, seed, prompt.tokens)
        self._first_token_at = self._last_token_at = self._last_flush_at = 0.0
        # The filters that the text of the tokens passes in this order, and what they let through since the last delta.
        self._utf8 = make_utf8_decoder()
        self._stop_filter = StopStringFilter(params.stop)
        self._splitter = ReasoningSplitter(prompt.text_tail)
        self._send, self._reasoning, self._text, self._token_count = send, "", "", 0
        # SentencePiece writes the space before a word into the word, before the first one too.
        self._strip_next_space = model.tokenizer.is_spm

    @property
    def _n_generated(self) -> int:
        return len(self.tokens) - self._prompt_length

    @property
    def remaining_tokens(self) -> int:
        """Tokens that may still be sampled, but for the one that ends the reply."""
        return (self._max_tokens or self._model.n_ctx) - self._n_generated - 1

    def sample_next(self, logits_index: int = -1) -> FinishReason | None:
        """Sample a token from the logits at an index of the last batch; return the reason if the reply ends with it."""
        token = self._sampler.sample_token(logits_index)
        if self._model.tokenizer.is_eog(token):
            return FinishReason.STOP
        self._last_token_at = monotonic()
        self._first_token_at = self._first_token_at or self._last_token_at
        self.tokens.append(token)
        self._token_count += 1
        text = self._utf8.decode(self._model.tokenizer.token_to_piece(token))
        if self._strip_next_space and text:
            text, self._strip_next_space = text.removeprefix(" "), False
        self._buffer(*self._splitter.feed(self._stop_filter.feed(text)))
        if monotonic() - self._last_flush_at >= _FLUSH_INTERVAL_S:
            self._flush()
        if self._stop_filter.is_stopped:
            return FinishReason.STOP
        if self._n_generated == self._max_tokens or len(self.tokens) > self._model.n_ctx:
            return FinishReason.LENGTH
        return None

    def _buffer(self, reasoning: str, text: str) -> None:
        self._reasoning += reasoning
        self._text += text

    def _flush(self) -> None:
        if self._reasoning or self._text:
            self._send(OutputDelta(self._reasoning, self._text, self._token_count))
            self._reasoning, self._text, self._token_count = "", "", 0
            self._last_flush_at = monotonic()

    def build_result(
        self, reason: FinishReason, cached: int, started: float, prefill_ended: float, restore_s: float, wait_s: float
    ) -> GenerationFinished:
        """Return the reply's usage and timings.

        started: when the request was received. restore_s, wait_s: seconds until prefill_ended that were not prefill.
        """
        generation_s, n_generated = self._last_token_at - self._first_token_at, self._n_generated
        timings = Timings(
            prompt_s=prefill_ended - started - restore_s - wait_s,
            first_token_s=(self._first_token_at or prefill_ended) - started,
            generation_s=generation_s,
            tokens_per_second=(n_generated - 1) / generation_s if n_generated > 1 and generation_s > 0 else 0.0,
            restore_s=restore_s,
            wait_s=wait_s,
        )
        return GenerationFinished(reason, Usage(self._prompt_length, cached, n_generated), timings)

    def close(self) -> None:
        """Send the text that was held back, but for an incomplete character at the very end, and free the sampler."""
        self._buffer(*self._splitter.feed(self._stop_filter.flush()))
        self._buffer(*self._splitter.flush())
        self._flush()
        self._sampler.close()
