"""What the commands of a chat say, for every front end: plain texts, sanitised."""

from __future__ import annotations

from dataclasses import fields, replace

from phichat import config
from phichat.chat.commands import COMMANDS
from phichat.chat.conversation import Conversation
from phichat.errors import UsageError
from phichat.messages import GenerationParams
from phichat.terminal import clean_line
from phichat.transcript.records import TurnRecord

_PROMPT = 60
"""Characters of a prompt that name a turn."""


def commands_text() -> str:
    """The slash commands, one a line."""
    return "\n".join(f"{command.usage:<26} {command.does}" for command in COMMANDS)


def options_text(params: GenerationParams) -> str:
    """The options and their values."""
    return "\n".join(f"{field.name} = {getattr(params, field.name)}" for field in fields(params))


def with_option(params: GenerationParams, words: str) -> GenerationParams:
    """The options after `/set OPTION VALUE`. Raises UsageError."""
    name, _, value = words.partition(" ")
    key, typed = config.read_option(name, value.strip())
    if key not in {field.name for field in fields(params)}:
        raise UsageError(f"{key} belongs to loading a model", f"start phichat with -o {key} {value.strip()}")
    return replace(params, **{key: typed})


def context_text(talk: Conversation) -> str:
    """What the model sees now, turn by turn."""
    system = about_tokens(talk.system or "")
    lines = [f"System prompt: about {system:,} tokens" if talk.system else "No system prompt (/system sets one)"]
    branch = talk.branch
    if not branch:
        return "\n".join([*lines, "No turn yet"])
    last, before, dropped, answered = branch[-1], system, 0, 0
    for number, turn in enumerate(branch, 1):
        answered += bool(turn.text)
        seen = "seen" if turn.text or turn is last else "not sent again, for it has no answer"
        if turn.text and turn is not last and answered <= last.dropped_turns:
            seen = "left out to make room"
        prompt, answer = about_tokens(turn.prompt), ""
        if turn.usage:
            # What the model read more of than after the turn before, unless that was cut or thought aloud.
            grown = turn.usage.prompt_tokens - before
            prompt = grown if grown > 0 and turn.dropped_turns == dropped else prompt
            answer = f" + {turn.usage.completion_tokens:,}"
            before, dropped = turn.usage.prompt_tokens + turn.usage.completion_tokens, turn.dropped_turns
        lines.append(f"{number}. {clean_line(turn.prompt)[:_PROMPT]}")
        lines.append(f"   about {prompt:,}{answer} tokens, {seen}")
    if last.usage:
        used = last.usage.prompt_tokens + last.usage.completion_tokens
        lines.append(f"{used:,} of {last.n_ctx:,} tokens after the last answer")
    return "\n".join(lines)


def about_tokens(text: str) -> int:
    """How many tokens a text may have, where no model is there to count: four bytes make one in English and code."""
    return -(-len(text.encode("utf-8", "replace")) // 4)


def stats_text(turn: TurnRecord) -> str:
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


def turn_number(talk: Conversation, word: str) -> TurnRecord:
    """The turn with this number, from 1; the last one for "". Raises UsageError."""
    branch = talk.branch
    if not branch:
        raise UsageError("There is no turn yet", "ask something first")
    if not word:
        return branch[-1]
    if not word.isdigit() or not 1 <= int(word) <= len(branch):
        raise UsageError(f"There is no turn {word!r}", f"give a number from 1 to {len(branch)}")
    return branch[int(word) - 1]
