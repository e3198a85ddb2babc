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

from phichat.engine.worker.sequences import Decoded, Sequence

BatchCosts = Tokens[tuple[int, float]]
"""Sizes of batches, and what evaluating one costs in terms of a single token."""

_MARGIN = 1.1
"""What is gained by less than this is not worth it: estimates are rough."""
_LOOKED_UP = 3
"""Tokens that have to repeat before a guess is made."""
_RUNS = (0, 1, 4, 16)
"""Guesses are told apart by how many in a row came true before them."""
_DECAY = 0.96
"""How fast it is forgotten how earlier guesses went."""


class Ahead:
    """The guesses behind the last token of a reply that were evaluated along with it.

    tokens: the prompt's, and those of the reply as they are chosen. place: in the batch, of the logits to choose
    the next token from.
    """

    def __init__(self, costs: BatchCosts, sequence: Sequence, tokens: list[int]) -> None:
        self._sequence, self._tokens = sequence, tokens
        self._drafter = Drafter(tokens, costs) if costs else None
        self._guesses: deque[int] = deque()
        self.place = -1

    def has_come_true(self) -> bool:
        """Whether the token that was just chosen had been guessed, so that its logits are there already."""
        if self._drafter is None:
            return False
        self._drafter.add(self._tokens[-1])
        if self._guesses and self._guesses.popleft() == self._tokens[-1]:
            self.place += 1
            return True
        self._guesses.clear()
        self._sequence.cut(len(self._tokens) - 1)
        self.place = -1
        return False

    def guess(self, room: int) -> bool:
        """Whether it pays to guess what follows the last token, at most `room` tokens."""
        self._guesses = deque(self._drafter.guess(room) if self._drafter else ())
        return bool(self._guesses)

    def evaluate(self) -> bool:
        """Evaluate the last token with the guesses behind it; False when nothing was evaluated."""
        guesses, self._guesses = self._guesses, deque()
        # The sequence holds less when somebody else needed its cells. And what cannot be cut off again would have to
        # be evaluated again, with all that is before it.
        held = len(self._sequence.cached)
        if held != len(self._tokens) - 1 or not self._sequence.can_be_cut(held - 1):
            return False
        if self._sequence.decode((self._tokens[-1], *guesses), every=True) is not Decoded.DONE:
            self._sequence.cut(len(self._tokens) - 1)
            return False
        self._guesses, self.place = guesses, 0
        return True

    def take_back(self) -> None:
        """The reply has ended: forget what was guessed behind it."""
        self._sequence.cut(len(self._tokens))


class Drafter:
    """Guesses for one reply; told every token of it."""

    def __init__(self, prompt: Tokens[int], costs: BatchCosts) -> None:
        self._tokens: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}
        self._begin: int | None = None
        """Where the text went on after the same tokens the last time."""
        self._costs = costs
        self._run = 0
        # Of the guesses after a run of each kind, how many came true, and how many there were.
        self._true, self._made = [1.0] * len(_RUNS), [2.0] * len(_RUNS)
        for token in prompt:
            self._append(token)

    def add(self, token: int) -> None:
        """The reply goes on with this token."""
        if self._begin is None:
            self._run = 0
        else:
            kind, hit = _kind(self._run), self._tokens[self._begin] == token
            self._true[kind] = self._true[kind] * _DECAY + hit
            self._made[kind] = self._made[kind] * _DECAY + 1
            self._run = self._run + 1 if hit else 0
        self._append(token)

    def guess(self, room: int) -> Tokens[int]:
        """What may follow, at most `room` tokens: as many as are likely to pay, often none."""
        if self._begin is None:
            return ()
        most = min(room, len(self._tokens) - self._begin)
        best, length = _MARGIN, 0
        likely, expected, guessed = 1.0, 1.0, 0
        for size, cost in self._costs:
            if size - 1 > most:
                break
            while guessed < size - 1:
                kind = _kind(self._run + guessed)
                likely *= self._true[kind] / self._made[kind]
                expected, guessed = expected + likely, guessed + 1
            if expected / cost > best:
                best, length = expected / cost, guessed
        return self._tokens[self._begin : self._begin + length]

    def _append(self, token: int) -> None:
        self._tokens.append(token)
        last = tuple(self._tokens[-_LOOKED_UP:])
        self._begin = self._ends.get(last)
        self._ends[last] = len(self._tokens)


def _kind(run: int) -> int:
    return sum(run >= least for least in _RUNS) - 1
