"""Fitting a history into a context, by whole turns.

A prompt that begins as the one before it is only read from where they part. So turns are not left out
one by one as the conversation grows: the cuts lie at marks that are a quarter of the context apart, and the
first of them that is late enough stays until the context is full again. Where the marks lie depends on the
turns alone, so that a conversation gets the same cut after a restart, in a fork, and for a reply made again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from phichat.errors import ContextOverflow
from phichat.messages import Message, Role

_MARKS = 4
"""To the context."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What the user said and what came back, which may be nothing."""

    prompt: str
    reply: str

    def messages(self) -> tuple[Message, ...]:
        """One or two messages."""
        said = (Message(Role.USER, self.prompt),)
        return (*said, Message(Role.ASSISTANT, self.reply)) if self.reply else said


@dataclass(frozen=True, slots=True)
class Fitted:
    """The messages to send. dropped_turns of the oldest are not among them; tokens they make."""

    messages: tuple[Message, ...]
    dropped_turns: int
    tokens: int


def fit(
    system: str | None,
    history: Sequence[Turn],
    prompt: str,
    count: Callable[[Sequence[Message]], int],
    n_ctx: int,
    max_tokens: int | None,
) -> Fitted:
    """The most recent turns, whole, behind the system prompt and before the new prompt: all where they fit,
    else those after the first mark that leaves enough room.

    Room for the reply is kept: max_tokens, but at most a quarter of the context. Only the history
    gives way for it; a prompt that alone leaves less is sent, and one that leaves nothing raises
    ContextOverflow. count: tokens of the rendered messages, which grow with every turn, so that
    turns are found by bisection.
    """
    room = n_ctx - min(max_tokens or n_ctx, n_ctx // 4)

    @cache
    def keep(dropped: int) -> Fitted:
        kept = [message for turn in history[dropped:] for message in turn.messages()]
        first = [Message(Role.SYSTEM, system)] if system else []
        messages = (*first, *kept, Message(Role.USER, prompt))
        return Fitted(messages, dropped, count(messages))

    def left_out(dropped: int) -> int:
        return keep(0).tokens - keep(dropped).tokens

    everything = len(history)
    if keep(0).tokens <= room:
        return keep(0)
    if keep(everything).tokens >= n_ctx:
        raise ContextOverflow(keep(everything).tokens, n_ctx)
    turns = range(everything + 1)
    least = bisect_left(turns, -room, hi=everything, key=lambda dropped: -keep(dropped).tokens)
    # A long prompt leaves the history little room, and of that, too, at least a quarter is used.
    step = min(n_ctx // _MARKS, (room - keep(everything).tokens) // 2)
    if least == 0 or step <= 0:
        return keep(least)
    mark = step * (left_out(least - 1) // step + 1)
    first_after = bisect_left(turns, mark, lo=least, hi=everything, key=left_out)
    # A turn that reaches far beyond the mark goes only when it must.
    reaches_far = left_out(first_after) > mark + step // 2
    return keep(max(least, first_after - 1) if reaches_far else first_after)
