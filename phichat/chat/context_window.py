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
from phichat.types import Message, Role

_CUT_POINTS_PER_CONTEXT = 4
"""To the context."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What the user said and what came back, which may be nothing."""

    prompt: str
    reply: str

    def to_messages(self) -> tuple[Message, ...]:
        """One or two messages."""
        user_messages = (Message(Role.USER, self.prompt),)
        return (*user_messages, Message(Role.ASSISTANT, self.reply)) if self.reply else user_messages


@dataclass(frozen=True, slots=True)
class FittedPrompt:
    """The messages to send. dropped_turns of the oldest are not among them; tokens they make."""

    messages: tuple[Message, ...]
    dropped_turns: int
    tokens: int


def fit_history(
    system: str | None,
    history: Sequence[Turn],
    prompt: str,
    count_tokens: Callable[[Sequence[Message]], int],
    n_ctx: int,
    max_tokens: int | None,
) -> FittedPrompt:
    """The most recent turns, whole, behind the system prompt and before the new prompt: all where they fit,
    else those after the first mark that leaves enough room.

    Room for the reply is kept: max_tokens, but at most a quarter of the context. Only the history
    gives way for it; a prompt that alone leaves less is sent, and one that leaves nothing raises
    ContextOverflow. count: tokens of the rendered messages, which grow with every turn, so that
    turns are found by bisection.
    """
    budget = n_ctx - min(max_tokens or n_ctx, n_ctx // 4)

    @cache
    def build(dropped: int) -> FittedPrompt:
        recent = [message for turn in history[dropped:] for message in turn.to_messages()]
        system_messages = [Message(Role.SYSTEM, system)] if system else []
        messages = (*system_messages, *recent, Message(Role.USER, prompt))
        return FittedPrompt(messages, dropped, count_tokens(messages))

    def removed_tokens(dropped: int) -> int:
        return build(0).tokens - build(dropped).tokens

    turn_count = len(history)
    if build(0).tokens <= budget:
        return build(0)
    if build(turn_count).tokens >= n_ctx:
        raise ContextOverflow(build(turn_count).tokens, n_ctx)
    turns = range(turn_count + 1)
    min_dropped = bisect_left(turns, -budget, hi=turn_count, key=lambda dropped: -build(dropped).tokens)
    # A long prompt leaves the history little room, and of that, too, at least a quarter is used.
    step = min(n_ctx // _CUT_POINTS_PER_CONTEXT, (budget - build(turn_count).tokens) // 2)
    if min_dropped == 0 or step <= 0:
        return build(min_dropped)
    cut_point = step * (removed_tokens(min_dropped - 1) // step + 1)
    first_past_cut = bisect_left(turns, cut_point, lo=min_dropped, hi=turn_count, key=removed_tokens)
    # A turn that reaches far beyond the mark goes only when it must.
    overshoots = removed_tokens(first_past_cut) > cut_point + step // 2
    return build(max(min_dropped, first_past_cut - 1) if overshoots else first_past_cut)
