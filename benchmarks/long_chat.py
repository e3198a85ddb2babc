"""Tokens that are evaluated again in a conversation that is longer than the context.

python benchmarks/long_chat.py [--model NAME] [--ctx-size N] [--turns N]

Two engines hold the same conversation. One gets the turns that `phichat.chat.context_window` keeps, the other as many
of the newest as fit, so that each turn pushes out another one. Counted are the tokens of each prompt that were
not found in the KV cache.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from common import say, spread, table

from phichat.cancel import CancelToken
from phichat.chat.context_window import Turn, TurnHistory
from phichat.chat.pipeline import TurnPipeline
from phichat.config.settings import Config, EngineOptions
from phichat.engine.local import LocalBackend
from phichat.events import TurnFinished
from phichat.paths import Paths
from phichat.services.app_context import AppContext
from phichat.services.backend_factory import BackendFactory
from phichat.types import Message, Role, SamplingParams

TOPICS = ("bridges", "bread", "tides", "chess", "glaciers", "looms", "owls", "clocks", "salt", "maps")
ANSWER = SamplingParams(temperature=0, max_tokens=48)


def prompt(number: int) -> str:
    """The user's words in that turn."""
    topic = TOPICS[number % len(TOPICS)]
    return f"Question {number}: tell me something about {topic} that has to do with what we said before, briefly."


def newest(backend: LocalBackend, history: Sequence[Turn], asked: str) -> list[Turn]:
    """As many of the newest turns as leave a quarter of the context, or the reply's length, free."""
    room = backend.n_ctx - min(ANSWER.max_tokens or backend.n_ctx, backend.n_ctx // 4)
    kept = list(history)
    while (
        kept
        and backend.count_tokens(
            [*(m for t in kept for m in t.to_messages()), Message(Role.USER, asked)], CancelToken()
        )
        > room
    ):
        kept.pop(0)
    return kept


def stable(backend: LocalBackend, history: Sequence[Turn], asked: str) -> list[Turn]:
    """All: the pipeline chooses."""
    return list(history)


def turn(backend: LocalBackend, history: list[Turn], asked: str) -> TurnFinished:
    """One turn; the conversation goes on with its answer."""
    for event in TurnPipeline(backend).run(TurnHistory(None, history, asked), ANSWER, CancelToken()):
        if isinstance(event, TurnFinished):
            return event
    raise SystemExit("the turn did not end")


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--model")
    options.add_argument("--ctx-size", type=int, default=1024)
    options.add_argument("--turns", type=int, default=40)
    given = options.parse_args()
    policies: dict[str, Callable[[LocalBackend, Sequence[Turn], str], list[Turn]]] = {
        "newest": newest,
        "stable": stable,
    }
    with tempfile.TemporaryDirectory() as home:
        paths = Paths.from_environment({**os.environ, "PHICHAT_HOME": str(Path(home))})
        config = Config(model=given.model, engine=EngineOptions(ctx_size=given.ctx_size))
        backends = {name: BackendFactory(AppContext(config, paths)).create_local_backend() for name in policies}
        history: dict[str, list[Turn]] = {name: [] for name in policies}
        read: dict[str, list[int]] = {name: [] for name in policies}
        seconds = dict.fromkeys(policies, 0.0)
        rows = []
        for number in range(1, given.turns + 1):
            row: list[object] = [number]
            for name, policy in policies.items():
                asked, past = prompt(number), history[name]
                for _ in backends[name].load(CancelToken()):
                    pass
                kept = policy(backends[name], past, asked)
                done = turn(backends[name], kept, asked)
                left_out = len(past) - len(kept) + done.dropped_turns
                read[name].append(done.usage.prompt_tokens - done.usage.cached_tokens)
                seconds[name] += done.timings.prompt_s
                past.append(Turn(asked, done.text))
                row += [left_out, done.usage.prompt_tokens, read[name][-1]]
            rows.append(row)
        for backend in backends.values():
            backend.close()
    head = [f"{name}: {what}" for name in policies for what in ("left out", "prompt", "read")]
    table(["turn", *head], rows)
    full = next((at for at, row in enumerate(rows) if row[1]), len(rows))
    for name in policies:
        late = read[name][full:] or [0]
        say(
            f"{name}: {sum(read[name]):,} tokens read in {seconds[name]:.1f} s; once the context is full "
            f"{sum(late) / len(late):,.0f} a turn on average, {spread(late)}, median {median(late):,.0f}"
        )
    if sum(read["stable"][full:]):
        say(
            f"once it is full, newest reads {sum(read['newest'][full:]) / sum(read['stable'][full:]):.1f} times as much"
        )
    say(f"over the whole conversation, {sum(read['newest']) / sum(read['stable']):.1f} times")


if __name__ == "__main__":
    main()
