"""Time to restore a conversation's KV cache, against evaluating the conversation again.

In each round a conversation of about --tokens tokens is read by an engine that then leaves, and gone on with
by one that restores and by one that was there all along. Then conversations with forks and edits, answered
greedily: the same text after every restart as by the engine that stays, and as by one that reads everything.
Evaluating in batches of another shape may turn near-ties the other way, so the last of these can differ where
nothing is wrong; the first may not.

    python benchmarks/kv_restore.py MODEL.gguf [--tokens 2000] [--rounds 3] [--conversations 50] [--restoring 30]
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import sleep

from common import say, verdict
from kv_engine import ask_engine, engine_keeping

from phichat.cancel import CancelToken
from phichat.engine.kv_store import COMPLETE_SUFFIX, KvStore
from phichat.engine.local import LocalBackend
from phichat.events import TurnFinished
from phichat.types import Message, Role

_WORDS = [
    "ship",
    "sea",
    "harbour",
    "keeper",
    "lamp",
    "rope",
    "storm",
    "anchor",
    "captain",
    "chart",
    "wind",
    "tide",
    "gull",
    "crew",
    "sail",
    "deck",
]
_LONG = 16
"""Tokens of an answer."""
_NEW = "Tell me in a few words which of these things was named first, which last, and which of them you like best."


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--conversations", type=int, default=50)
    parser.add_argument("--restoring", type=float, default=30.0, help="how much faster it should be")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="phichat-benchmark-") as folder:
        _times(given.model, Path(folder), given.tokens, given.rounds, given.restoring)
        if given.conversations:
            _identity(given.model, Path(folder), given.conversations)


def _times(model: Path, folder: Path, tokens: int, rounds: int, target: float) -> None:
    ratios, firsts = [], []
    for number in range(rounds):
        chance = random.Random(number)
        kept = folder / f"round{number}"
        with engine_keeping(model, folder, kept) as engine:
            talk = _conversation(chance, tokens, engine)
            read = ask_engine(engine, talk, 4)
            while not any(file.path.suffix == COMPLETE_SUFFIX for file in KvStore(kept).list_files()):
                sleep(0.05)
            more = [*talk, Message(Role.ASSISTANT, read.text), Message(Role.USER, _NEW)]
            stays = ask_engine(engine, more, 2, owner="")
        with engine_keeping(model, folder, kept) as engine:
            ask_engine(engine, [Message(Role.USER, "Hello")], 1, owner="")
            again = ask_engine(engine, more, 2, owner="")
        assert stays.usage.cached_tokens == again.usage.cached_tokens, (stays.usage, again.usage)
        ratios.append(read.timings.prompt_s / again.timings.restore_s)
        firsts.append(again.timings.first_token_s / stays.timings.first_token_s)
        new = again.usage.prompt_tokens - again.usage.cached_tokens
        say(
            f"{read.usage.prompt_tokens} tokens read in {read.timings.prompt_s:.2f} s, "
            f"{again.usage.cached_tokens} brought back in {again.timings.restore_s * 1000:.1f} ms "
            f"({ratios[-1]:.0f} times faster); first token after {new} new ones: "
            f"{again.timings.first_token_s:.3f} s, {stays.timings.first_token_s:.3f} s without a restart"
        )
    verdict("reading / bringing back", statistics.median(ratios), target)
    verdict("first token without / with a restart", 1 / statistics.median(firsts), 1 / 1.3)


def _conversation(chance: random.Random, tokens: int, engine: LocalBackend) -> list[Message]:
    """Turns until there are about so many tokens; the last one asks."""
    talk = [Message(Role.SYSTEM, "You answer briefly.")]
    while True:
        talk.append(Message(Role.USER, " ".join(chance.choices(_WORDS, k=60))))
        if engine.count_tokens(talk, CancelToken()) >= tokens:
            return talk
        talk.append(Message(Role.ASSISTANT, " ".join(chance.choices(_WORDS, k=60))))


def _identity(model: Path, folder: Path, conversations: int) -> None:
    """Each conversation: two turns, a fork of the first, a turn after the second, and the first one edited."""
    restarted, alive, read = [], [], []
    cached = prompts = 0
    for number in range(conversations):
        chance = random.Random(1000 + number)
        kept, unkept = folder / f"talk{number}", folder / f"unkept{number}"
        with engine_keeping(model, folder, unkept, budget=0) as engine:
            plans, answers = _talk(engine, chance)
        alive.append(answers)
        restarted.append(list(_each_in_an_engine_of_its_own(model, folder, kept, plans)))
        read.append(list(_each_in_an_engine_of_its_own(model, folder, unkept, plans, budget=0)))
        shutil.rmtree(kept)
        cached += sum(answer.usage.cached_tokens for answer in restarted[-1][1:])
        prompts += sum(answer.usage.prompt_tokens for answer in restarted[-1][1:])
        if number % 10 == 9 or number == conversations - 1:
            total = sum(map(len, restarted))
            say(
                f"{number + 1} conversations, {total} answers, {cached / prompts:.0%} of the later prompts' tokens "
                f"brought back; the same with a restart as without: {_same(restarted, alive)}, as when everything "
                f"is read again: {_same(restarted, read)} (without a restart: {_same(alive, read)})"
            )
    verdict("the same with a restart as without", _same(restarted, alive) / total, 1.0)


def _talk(engine: LocalBackend, chance: random.Random) -> tuple[list[list[Message]], list[TurnFinished]]:
    """What is asked, one after the other, and what an engine answers that is there all along."""
    story, words = " ".join(chance.choices(_WORDS, k=chance.randrange(110, 240))), chance.sample(_WORDS, 3)
    first = [Message(Role.USER, f"{story}\nWhat is this about?")]
    answers = [ask_engine(engine, first, _LONG)]
    begun = [*first, Message(Role.ASSISTANT, answers[0].text)]
    second = [*begun, Message(Role.USER, f"What about the {words[0]}?")]
    fork = [*begun, Message(Role.USER, f"Forget it. Who has a {words[1]}?")]
    third = [*second, Message(Role.ASSISTANT, "Nothing."), Message(Role.USER, "Why?")]
    edited = [Message(Role.USER, f"{story}\nIs there a {words[2]}?")]
    later = [second, fork, third, edited]
    return [first, *later], answers + [ask_engine(engine, messages, _LONG) for messages in later]


def _each_in_an_engine_of_its_own(
    model: Path, folder: Path, kept: Path, plans: Sequence[list[Message]], budget: int = 10**10
) -> Iterator[TurnFinished]:
    for messages in plans:
        with engine_keeping(model, folder, kept, budget) as engine:
            yield ask_engine(engine, messages, _LONG)


def _same(some: list[list[TurnFinished]], others: list[list[TurnFinished]]) -> int:
    pairs = [pair for one, other in zip(some, others, strict=True) for pair in zip(one, other, strict=True)]
    return sum(one.text == other.text for one, other in pairs)


if __name__ == "__main__":
    main()
