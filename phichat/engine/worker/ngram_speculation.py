"""Guessing what a reply goes on with, from what was said before: speculation by looking up in the prompt.

Where a reply repeats its prompt or itself (code that is edited, a quotation, a name), the tokens that followed
the last time are likely to follow again. A few of them are evaluated in one batch with the token that is due;
those that sampling then confirms have cost little more than one. Whether it pays depends on how much a larger
batch costs on this machine, which is measured, and on how often guesses come true, which is counted as the reply
grows, also while none are evaluated. Nothing here depends on the clock, so that a reply can be repeated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Tokens

from phichat.engine.worker.kv_cache.sequences import DecodeStatus, Sequence

RelativeBatchCosts = Tokens[tuple[int, float]]
"""Sizes of batches, and what evaluating one costs in terms of a single token."""

_MIN_GAIN = 1.1
"""What is gained by less than this is not worth it: estimates are rough."""
_NGRAM_SIZE = 3
"""Tokens that have to repeat before a guess is made."""
_RUN_BUCKETS = (0, 1, 4, 16)
"""Guesses are told apart by how many in a row came true before them."""
_DECAY = 0.96
"""How fast it is forgotten how earlier guesses went."""


class SpeculativeBatch:
    """The guesses behind the last token of a reply that were evaluated along with it.

    tokens: the prompt's, and those of the reply as they are chosen. place: in the batch, of the logits to choose
    the next token from.
    """

    def __init__(self, costs: RelativeBatchCosts, sequence: Sequence, tokens: list[int]) -> None:
        self._sequence, self._tokens = sequence, tokens
        self._proposer = NgramProposer(tokens, costs) if costs else None
        self._draft_tokens: deque[int] = deque()
        self.logits_index = -1

    def accept_token(self) -> bool:
        """Whether the token that was just chosen had been guessed, so that its logits are there already."""
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
        """Whether it pays to guess what follows the last token, at most `room` tokens."""
        self._draft_tokens = deque(self._proposer.propose(max_tokens) if self._proposer else ())
        return bool(self._draft_tokens)

    def evaluate_draft(self) -> bool:
        """Evaluate the last token with the guesses behind it; False when nothing was evaluated."""
        draft_tokens, self._draft_tokens = self._draft_tokens, deque()
        # The sequence holds less when somebody else needed its cells. And what cannot be cut off again would have to
        # be evaluated again, with all that is before it.
        cached = len(self._sequence.cached_tokens)
        if cached != len(self._tokens) - 1 or not self._sequence.can_truncate_to(cached - 1):
            return False
        if self._sequence.decode((self._tokens[-1], *draft_tokens), all_logits=True) is not DecodeStatus.DONE:
            self._sequence.truncate(len(self._tokens) - 1)
            return False
        self._draft_tokens, self.logits_index = draft_tokens, 0
        return True

    def rollback(self) -> None:
        """The reply has ended: forget what was guessed behind it."""
        self._sequence.truncate(len(self._tokens))


class NgramProposer:
    """Guesses for one reply; told every token of it."""

    def __init__(self, prompt: Tokens[int], costs: RelativeBatchCosts) -> None:
        self._tokens: list[int] = []
        self._ngram_ends: dict[tuple[int, ...], int] = {}
        self._continuation_start: int | None = None
        """Where the text went on after the same tokens the last time."""
        self._costs = costs
        self._accepted_run = 0
        # Of the guesses after a run of each kind, how many came true, and how many there were.
        self._accepted, self._proposed = [1.0] * len(_RUN_BUCKETS), [2.0] * len(_RUN_BUCKETS)
        for token in prompt:
            self._append(token)

    def add_token(self, token: int) -> None:
        """The reply goes on with this token."""
        if self._continuation_start is None:
            self._accepted_run = 0
        else:
            bucket, is_accepted = _find_bucket(self._accepted_run), self._tokens[self._continuation_start] == token
            self._accepted[bucket] = self._accepted[bucket] * _DECAY + is_accepted
            self._proposed[bucket] = self._proposed[bucket] * _DECAY + 1
            self._accepted_run = self._accepted_run + 1 if is_accepted else 0
        self._append(token)

    def propose(self, max_tokens: int) -> Tokens[int]:
        """What may follow, at most `room` tokens: as many as are likely to pay, often none."""
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
