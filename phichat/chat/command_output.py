"""The text that slash commands show, for every front end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

from phichat.chat.conversation import Conversation
from phichat.chat.slash_commands import COMMANDS
from phichat.config import settings
from phichat.errors import UsageError
from phichat.sanitize import sanitize_line
from phichat.transcript.records import TurnRecord
from phichat.types import FilePart, SamplingParams, render_parts
from phichat.units import format_count

_MAX_PROMPT_CHARS = 60
"""Characters of a prompt that a turn is listed by."""


def format_commands() -> str:
    """Return the slash commands, one per line."""
    return "\n".join(f"{command.usage:<26} {command.description}" for command in COMMANDS)


def format_options(params: SamplingParams) -> str:
    """Return the sampling options and their values, one per line."""
    return "\n".join(f"{field.name} = {getattr(params, field.name)}" for field in fields(params))


def set_option(params: SamplingParams, args: str) -> SamplingParams:
    """Return the options as changed by `/set OPTION VALUE`. Raises UsageError."""
    name, _, value = args.partition(" ")
    key, parsed = settings.parse_option(name, value.strip())
    if key not in {field.name for field in fields(params)}:
        flag = f"--{key.replace('_', '-')} {value.strip()}"
        raise UsageError(f"{key} is set when the model loads", f"Restart with `phichat chat {flag}`")
    return replace(params, **{key: parsed})


def format_context(conversation: Conversation, count_tokens: Callable[[str], int] | None = None) -> str:
    """Return what the model sees, turn by turn, with the tokens of each text and each file.

    count_tokens: of the loaded model; None estimates, and the text says so.
    """

    def format_tokens(text: str) -> str:
        if count_tokens:
            return format_count(count_tokens(text), "token")
        return f"about {format_count(estimate_tokens(text), 'token')}"

    system = conversation.system
    lines = [f"System prompt: {format_tokens(system)}" if system else "No system prompt (set one with /system)"]
    branch = conversation.branch
    if not branch:
        return "\n".join([*lines, "No turns yet"])
    last, answered_count = branch[-1], 0
    for number, turn in enumerate(branch, 1):
        answered_count += bool(turn.text)
        status = "seen" if turn.text or turn is last else "not sent: it was never answered"
        if turn.text and turn is not last and answered_count <= last.dropped_turns:
            status = "left out to make room"
        lines.append(f"{number}. {sanitize_line(turn.title_text)[:_MAX_PROMPT_CHARS]} ({status})")
        for part in turn.parts:
            name = sanitize_line(part.name) if isinstance(part, FilePart) else "prompt"
            lines.append(f"   {name}: {format_tokens(render_parts([part]))}")
        if turn.usage:
            lines.append(f"   answer: {format_count(turn.usage.completion_tokens, 'token')}")
    if last.usage:
        used_tokens = last.usage.prompt_tokens + last.usage.completion_tokens
        lines.append(f"{used_tokens:,} of {last.n_ctx:,} tokens used")
    return "\n".join(lines)


def estimate_tokens(text: str) -> int:
    """Return a rough number of tokens without a model: English and code have about four bytes per token."""
    return -(-len(text.encode("utf-8", "replace")) // 4)


def format_stats(turn: TurnRecord) -> str:
    """Return tokens and timings of an answer, one line each."""
    usage, times = turn.usage, turn.timings
    if usage is None or times is None:
        return "This answer was cut off, so there are no statistics."
    seconds = {
        "waiting": times.wait_s,
        "loading": times.load_s,
        "restoring the KV cache": times.restore_s,
        "prompt processing": times.prompt_s,
        "first token": times.first_token_s,
        "generation": times.generation_s,
    }
    dropped = f", {format_count(turn.dropped_turns, 'turn')} left out" if turn.dropped_turns else ""
    return "\n".join(
        (
            f"Prompt {format_count(usage.prompt_tokens, 'token')} ({usage.cached_tokens:,} cached)",
            f"Answer {format_count(usage.completion_tokens, 'token')}, {times.tokens_per_second:.1f} tokens/s",
            *(f"{name:<24}{value:8.2f} s" for name, value in seconds.items()),
            f"Seed {turn.seed}, context {format_count(turn.n_ctx, 'token')}{dropped}",
        )
    )


def find_turn(conversation: Conversation, number: str) -> TurnRecord:
    """Return the turn with this number, from 1; the last one for "". Raises UsageError."""
    branch = conversation.branch
    if not branch:
        raise UsageError("No turns yet", "Ask something first")
    if not number:
        return branch[-1]
    if not number.isdecimal() or not 1 <= int(number) <= len(branch):
        raise UsageError(f"No turn {number}", f"Choose 1 to {len(branch)}" if len(branch) > 1 else "Choose 1")
    return branch[int(number) - 1]
