"""Fitting a history into a context, by whole turns.

A prompt that begins like the one before it is only evaluated from where they differ. So turns are not left out
one by one as the conversation grows: cut points lie a quarter of the context apart, and the first of them that
is late enough is used until the context is full again. The cut points depend on the turns alone, so that a
conversation is cut alike after a restart, in a fork, and for a regenerated reply.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from phichat.errors import ContextOverflow
from phichat.types import Content, Message, Role

_CUT_POINTS_PER_CONTEXT = 4

TokenCounter = Callable[[Sequence[Message]], int]
"""Counts the tokens of the rendered messages."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A prompt and its reply, which may be empty."""

    prompt: Content
    reply: str

    def to_messages(self) -> tuple[Message, ...]:
        """Return the prompt and, where there is one, the reply."""
        user_messages = (Message(Role.USER, self.prompt),)
        return (*user_messages, Message(Role.ASSISTANT, self.reply)) if self.reply else user_messages


@dataclass(frozen=True, slots=True)
class FittedPrompt:
    """The messages to send, without the dropped oldest turns. tokens: of the messages."""

    messages: tuple[Message, ...]
    dropped_turns: int
    tokens: int


@dataclass(frozen=True, slots=True)
class TurnHistory:
    """The earlier turns of a conversation; the oldest are left out where the context is too small for all."""

    system: str | None = None
    turns: Sequence[Turn] = ()
    prompt: Content = ""

    def fit(self, count_tokens: TokenCounter, n_ctx: int, max_tokens: int | None) -> FittedPrompt:
        """Return the system prompt, the most recent turns, and the new prompt: all turns where they fit, else those
        after the first cut point that leaves enough room.

        Room for the reply is reserved: max_tokens, but at most a quarter of the context. Only the history
        gives way for it; a prompt that alone leaves less is sent, and one that leaves nothing raises
        ContextOverflow. The count of tokens grows with every turn, so that turns are found by bisection.
        """
        budget = n_ctx - min(max_tokens or n_ctx, n_ctx // 4)

        @cache
        def build(dropped: int) -> FittedPrompt:
            recent = [message for turn in self.turns[dropped:] for message in turn.to_messages()]
            system_messages = [Message(Role.SYSTEM, self.system)] if self.system else []
            messages = (*system_messages, *recent, Message(Role.USER, self.prompt))
            return FittedPrompt(messages, dropped, count_tokens(messages))

        def removed_tokens(dropped: int) -> int:
            return build(0).tokens - build(dropped).tokens

        turn_count = len(self.turns)
        if build(0).tokens <= budget:
            return build(0)
        if build(turn_count).tokens >= n_ctx:
            raise ContextOverflow(build(turn_count).tokens, n_ctx)
        dropped_counts = range(turn_count + 1)
        min_dropped = bisect_left(dropped_counts, -budget, hi=turn_count, key=lambda dropped: -build(dropped).tokens)
        # A long prompt leaves the history little room, and of that, too, at least a quarter is used.
        step = min(n_ctx // _CUT_POINTS_PER_CONTEXT, (budget - build(turn_count).tokens) // 2)
        if min_dropped == 0 or step <= 0:
            return build(min_dropped)
        cut_point = step * (removed_tokens(min_dropped - 1) // step + 1)
        first_past_cut = bisect_left(dropped_counts, cut_point, lo=min_dropped, hi=turn_count, key=removed_tokens)
        # A turn that reaches far beyond the cut point is left out only when it must be.
        overshoots = removed_tokens(first_past_cut) > cut_point + step // 2
        return build(max(min_dropped, first_past_cut - 1) if overshoots else first_past_cut)


@dataclass(frozen=True, slots=True)
class MessageHistory:
    """Messages of a client that keeps its conversation itself; they are sent unchanged."""

    messages: tuple[Message, ...]

    @property
    def system(self) -> str | None:
        """All system messages, a blank line apart."""
        return "\n\n".join(message.text for message in self.messages if message.role is Role.SYSTEM) or None

    @property
    def prompt(self) -> Content:
        """The last message of the user."""
        return next((message.parts for message in reversed(self.messages) if message.role is Role.USER), "")

    def fit(self, count_tokens: TokenCounter, n_ctx: int, max_tokens: int | None) -> FittedPrompt:
        """Return the messages. Raises ContextOverflow."""
        tokens = count_tokens(self.messages)
        if tokens >= n_ctx > 0:
            raise ContextOverflow(tokens, n_ctx)
        return FittedPrompt(self.messages, 0, tokens)
