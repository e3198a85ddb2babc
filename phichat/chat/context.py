"""Fitting a history into a context, by whole turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from phichat.errors import ContextOverflow
from phichat.messages import Message, Role


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
    """The most recent turns that fit, whole, behind the system prompt and before the new prompt.

    Room for the reply is kept: max_tokens, but at most a quarter of the context. Only the history
    gives way for it; a prompt that alone leaves less is sent, and one that leaves nothing raises
    ContextOverflow. count: tokens of the rendered messages, which grow with every turn, so that the
    number of turns to drop is found by bisection.
    """
    room = n_ctx - min(max_tokens or n_ctx, n_ctx // 4)

    def keep(dropped: int) -> Fitted:
        kept = [message for turn in history[dropped:] for message in turn.messages()]
        first = [Message(Role.SYSTEM, system)] if system else []
        messages = (*first, *kept, Message(Role.USER, prompt))
        return Fitted(messages, dropped, count(messages))

    whole = keep(0)
    if whole.tokens <= room:
        return whole
    least = keep(len(history)) if history else whole
    if least.tokens >= n_ctx:
        raise ContextOverflow(least.tokens, n_ctx)
    too_few, best = 0, least
    while best.dropped_turns - too_few > 1:
        tried = keep((too_few + best.dropped_turns) // 2)
        if tried.tokens <= room:
            best = tried
        else:
            too_few = tried.dropped_turns
    return best
