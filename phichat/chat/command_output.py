"""What the commands of a chat say, for every front end: plain texts, sanitised."""

from __future__ import annotations

from dataclasses import fields, replace

from phichat.chat.conversation import Conversation
from phichat.chat.slash_commands import COMMANDS
from phichat.config import settings
from phichat.errors import UsageError
from phichat.sanitize import sanitize_line
from phichat.transcript.records import TurnRecord
from phichat.types import SamplingParams

_MAX_PROMPT_CHARS = 60
"""Characters of a prompt that name a turn."""


def format_commands() -> str:
    """The slash commands, one a line."""
    return "\n".join(f"{command.usage:<26} {command.description}" for command in COMMANDS)


def format_options(params: SamplingParams) -> str:
    """The options and their values."""
    return "\n".join(f"{field.name} = {getattr(params, field.name)}" for field in fields(params))


def set_option(params: SamplingParams, args: str) -> SamplingParams:
    """The options after `/set OPTION VALUE`. Raises UsageError."""
    name, _, value = args.partition(" ")
    key, parsed = settings.parse_option(name, value.strip())
    if key not in {field.name for field in fields(params)}:
        raise UsageError(f"{key} belongs to loading a model", f"Start phichat with -o {key} {value.strip()}")
    return replace(params, **{key: parsed})


def format_context(conversation: Conversation) -> str:
    """What the model sees now, turn by turn."""
    system = estimate_tokens(conversation.system or "")
    lines = [
        f"System prompt: about {system:,} tokens" if conversation.system else "No system prompt (/system sets one)"
    ]
    branch = conversation.branch
    if not branch:
        return "\n".join([*lines, "No turn yet"])
    last, previous_tokens, previous_dropped, answered_count = branch[-1], system, 0, 0
    for number, turn in enumerate(branch, 1):
        answered_count += bool(turn.text)
        status = "seen" if turn.text or turn is last else "not sent again, for it has no answer"
        if turn.text and turn is not last and answered_count <= last.dropped_turns:
            status = "left out to make room"
        prompt, answer = estimate_tokens(turn.prompt), ""
        if turn.usage:
            # What the model read more of than after the turn before, unless that was cut or thought aloud.
            added_tokens = turn.usage.prompt_tokens - previous_tokens
            prompt = added_tokens if added_tokens > 0 and turn.dropped_turns == previous_dropped else prompt
            answer = f" + {turn.usage.completion_tokens:,}"
            previous_tokens, previous_dropped = (
                turn.usage.prompt_tokens + turn.usage.completion_tokens,
                turn.dropped_turns,
            )
        lines.append(f"{number}. {sanitize_line(turn.prompt)[:_MAX_PROMPT_CHARS]}")
        lines.append(f"   about {prompt:,}{answer} tokens, {status}")
    if last.usage:
        used_tokens = last.usage.prompt_tokens + last.usage.completion_tokens
        lines.append(f"{used_tokens:,} of {last.n_ctx:,} tokens after the last answer")
    return "\n".join(lines)


def estimate_tokens(text: str) -> int:
    """How many tokens a text may have, where no model is there to count: four bytes make one in English and code."""
    return -(-len(text.encode("utf-8", "replace")) // 4)


def format_stats(turn: TurnRecord) -> str:
    """Tokens and times of an answer."""
    usage, times = turn.usage, turn.timings
    if usage is None or times is None:
        return "This answer was cut off; nothing was measured."
    return (
        f"{usage.prompt_tokens:,} tokens of prompt, {usage.cached_tokens:,} of them found in the KV cache\n"
        f"{usage.completion_tokens:,} tokens of answer\n"
        f"waiting      {times.wait_s:8.2f} s\n"
        f"loading      {times.load_s:8.2f} s\n"
        f"restoring    {times.restore_s:8.2f} s\n"
        f"reading      {times.prompt_s:8.2f} s\n"
        f"first token  {times.first_token_s:8.2f} s\n"
        f"writing      {times.generation_s:8.2f} s, {times.tokens_per_second:.1f} tokens/s\n"
        f"seed {turn.seed}, context {turn.n_ctx:,} tokens, {turn.dropped_turns} turns left out"
    )


def parse_turn_number(conversation: Conversation, text: str) -> TurnRecord:
    """The turn with this number, from 1; the last one for "". Raises UsageError."""
    branch = conversation.branch
    if not branch:
        raise UsageError("There is no turn yet", "Ask something first")
    if not text:
        return branch[-1]
    if not text.isdigit() or not 1 <= int(text) <= len(branch):
        raise UsageError(f"There is no turn {text!r}", f"Give a number from 1 to {len(branch)}")
    return branch[int(text) - 1]
