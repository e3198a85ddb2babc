"""Speculative decoding with n-gram lookup: draft tokens come from the prompt and the reply so far.

Where a reply repeats its prompt or itself (code that is edited, a quotation, a name), the tokens that followed an
n-gram the last time are likely to follow again. They are evaluated in one batch with the pending token; those that
sampling then accepts have cost little more than one. Speculation pays depending on how much a larger batch costs on
this machine, which is measured, and on how often drafts are accepted, which is counted as the reply grows, also while
none are evaluated. Nothing here depends on the clock, so that a reply can be repeated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from phichat.engine.worker.kv_cache.sequences import DecodeStatus, KvSequence

RelativeBatchCosts = Sequence[tuple[int, float]]
"""Batch sizes in tokens, and what evaluating one costs relative to a single token."""

_MIN_GAIN = 1.1  # expected speed-up below which nothing is drafted: estimates are rough
_NGRAM_SIZE = 3  # tokens that have to repeat before tokens are drafted
_RUN_BUCKETS = (0, 1, 4, 16)  # acceptance is counted separately by how many draft tokens in a row were accepted before
_DECAY = 0.96  # weight of the earlier counts at each new token


class SpeculativeBatch:
    """Draft tokens that were evaluated in one batch with the last token of a reply.

    tokens: of the prompt and the reply; the caller appends each sampled one. logits_index: in the last batch, of the
    logits to sample the next token from; the caller sets it after a batch of its own.
    """

    def __init__(self, costs: RelativeBatchCosts, sequence: KvSequence, tokens: list[int]) -> None:
        self._sequence, self._tokens = sequence, tokens
        self._proposer = NgramProposer(tokens, costs) if costs else None
        self._draft_tokens: deque[int] = deque()
        self.logits_index = -1

    def accept_token(self) -> bool:
        """Return True if the token just sampled equals the draft, so that its logits are computed already."""
        if self._proposer is None:
            return False
        self._proposer.add_token(self._tokens[-1])
        if self._draft_tokens and self._draft_tokens.popleft() == self._tokens[-1]:
            self.logits_index += 1
            return True
        self._draft_tokens.clear()
        self._sequence.truncate(len(self._tokens) - 1)
        self.logits_index = -1
        return False

    def propose(self, max_tokens: int) -> bool:
        """Draft at most that many tokens; False when it would not pay."""
        self._draft_tokens = deque(self._proposer.propose(max_tokens) if self._proposer else ())
        return bool(self._draft_tokens)

    def evaluate_draft(self) -> bool:
        """Evaluate the last token and the draft in one batch; False when nothing was evaluated."""
        draft_tokens, self._draft_tokens = self._draft_tokens, deque()
        # The sequence holds less if another job evicted it. And a draft that cannot be truncated again would force
        # the whole sequence to be evaluated again.
        cached = len(self._sequence.cached_tokens)
        if cached != len(self._tokens) - 1 or not self._sequence.can_truncate_to(cached - 1):
            return False
        if self._sequence.decode((self._tokens[-1], *draft_tokens), all_logits=True) is not DecodeStatus.DONE:
            self._sequence.truncate(len(self._tokens) - 1)
            return False
        self._draft_tokens, self.logits_index = draft_tokens, 0
        return True

    def rollback(self) -> None:
        """Remove the draft tokens after the reply's end."""
        self._sequence.truncate(len(self._tokens))


class NgramProposer:
    """Drafts tokens for one reply; `add_token` is called with each of its tokens."""

    def __init__(self, prompt: Sequence[int], costs: RelativeBatchCosts) -> None:
        self._tokens: list[int] = []
        self._ngram_ends: dict[tuple[int, ...], int] = {}
        self._continuation_start: int | None = None  # of the tokens after the last n-gram's previous occurrence
        self._costs = costs
        self._accepted_run = 0
        # Of the draft tokens in each bucket.
        self._accepted, self._proposed = [1.0] * len(_RUN_BUCKETS), [2.0] * len(_RUN_BUCKETS)
        for token in prompt:
            self._append(token)

    def add_token(self, token: int) -> None:
        """Append a token of the reply, and count if the draft would have been right."""
        if self._continuation_start is None:
            self._accepted_run = 0
        else:
            bucket, is_accepted = _find_bucket(self._accepted_run), self._tokens[self._continuation_start] == token
            self._accepted[bucket] = self._accepted[bucket] * _DECAY + is_accepted
            self._proposed[bucket] = self._proposed[bucket] * _DECAY + 1
            self._accepted_run = self._accepted_run + 1 if is_accepted else 0
        self._append(token)

    def propose(self, max_tokens: int) -> Sequence[int]:
        """Return at most that many draft tokens: as many as are expected to pay, often none."""
        if self._continuation_start is None:
            return ()
        limit = min(max_tokens, len(self._tokens) - self._continuation_start)
        best_gain, length = _MIN_GAIN, 0
        probability, expected, drafted = 1.0, 1.0, 0
        for size, cost in self._costs:
            if size - 1 > limit:
                break
            while drafted < size - 1:
                bucket = _find_bucket(self._accepted_run + drafted)
                probability *= self._accepted[bucket] / self._proposed[bucket]
                expected, drafted = expected + probability, drafted + 1
            if expected / cost > best_gain:
                best_gain, length = expected / cost, drafted
        return self._tokens[self._continuation_start : self._continuation_start + length]

    def _append(self, token: int) -> None:
        self._tokens.append(token)
        ngram = tuple(self._tokens[-_NGRAM_SIZE:])
        self._continuation_start = self._ngram_ends.get(ngram)
        self._ngram_ends[ngram] = len(self._tokens)


def _find_bucket(run: int) -> int:
    return sum(run >= least for least in _RUN_BUCKETS) - 1
