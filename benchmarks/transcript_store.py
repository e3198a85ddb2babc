"""Time of search, listing and opening in a large transcript store, and the bytes that each message adds.

    python benchmarks/transcript_store.py --turns 500000 --folder FOLDER

The texts are made: lengths log-normal, words by Zipf's law, one word in half of all messages. A store
that FOLDER already holds is measured as it is.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import accumulate
from pathlib import Path
from time import perf_counter

from common import limit, percentile, say, table

from phichat.transcript.ids import make_ascending_ids
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.transcript.search import SearchFilters
from phichat.transcript.store import TranscriptStore
from phichat.types import FinishReason, ModelInfo, SamplingParams, Timings, Usage

COMMON = "everyother"
"""The word that stands in half of all messages."""


class Texts:
    """Random texts over a vocabulary of pronounceable words."""

    def __init__(self, chance: random.Random, words: int) -> None:
        self._chance = chance
        syllables = [consonant + vowel for consonant in "bcdfghjklmnprstvwz" for vowel in ("a", "e", "i", "o", "u")]
        made: dict[str, None] = {}
        while len(made) < words:
            made[
                "".join(chance.choices(syllables, k=min(6, 1 + int(math.log(len(made) + 2, 40) + chance.random()))))
            ] = None
        self._words = list(made)
        self._weights = list(accumulate(1 / (rank + 2.7) for rank in range(words)))

    def text(self, median: float) -> str:
        """A text whose length in words is log-normal around this median."""
        length = max(1, int(self._chance.lognormvariate(math.log(median), 0.9)))
        words = self._chance.choices(self._words, cum_weights=self._weights, k=min(length, 20_000))
        if self._chance.random() < 0.5:
            words.insert(self._chance.randrange(len(words) + 1), COMMON)
        return " ".join(words)


def conversations(turns: int, chance: random.Random) -> Iterator[ConversationRecord]:
    """Conversations that have so many turns together, over three years."""
    texts, next_id = Texts(chance, 150_000), make_ascending_ids()
    now = datetime.now(UTC)
    step = timedelta(days=3 * 365) / turns
    began = now - step * (turns + 1)
    model = ModelInfo("phi-4-mini", "phi3", "ab" * 32, 2_500_000_000, 1, "cd" * 32, "0.3.36", 8192, 32)
    made = 0
    while made < turns:
        length = min(turns - made, max(1, int(chance.lognormvariate(math.log(4), 1))))
        id_, parent, records = next_id(began + step * made), None, []
        for at in range(made, made + length):
            when = began + step * at
            records.append(
                TurnRecord(
                    next_id(when),
                    parent,
                    when,
                    texts.text(14),
                    texts.text(90),
                    finished_at=when + timedelta(seconds=9),
                    finish_reason=FinishReason.STOP,
                    model=model,
                    params=SamplingParams(),
                    seed=chance.randrange(2**32),
                    usage=Usage(chance.randrange(4000), 0, chance.randrange(900)),
                    timings=Timings(0.0, chance.random(), chance.random(), 9 * chance.random(), 20 * chance.random()),
                    n_ctx=8192,
                )
            )
            parent = records[-1].id
        made += length
        title = " ".join(records[0].prompt.split()[:8])[:80]
        yield ConversationRecord(id_, title, records[0].created_at, records[-1].created_at, tuple(records), parent)


def fill(store: TranscriptStore, turns: int, chance: random.Random) -> None:
    """Write them, without waiting for the disk."""
    with store.database.autocommit() as connection:
        connection.execute("PRAGMA synchronous = OFF")
    began, texts = perf_counter(), 0
    for conversation in conversations(turns, chance):
        texts += sum(len(turn.prompt) + len(turn.text) for turn in conversation.turns)
        store.add_conversation(conversation)
    added = perf_counter()
    store.index_pending_turns()
    with store.database.autocommit() as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size, indexed = store.database.path.stat().st_size, perf_counter()
    say(f"{turns * 2:,} messages: added in {added - began:.0f} s, indexed in {indexed - added:.0f} s")
    say(f"{size / turns / 2:.0f} bytes a message, of which {texts / turns / 2:.0f} are its text")


def clocked(step: Callable[[], object]) -> float:
    """Milliseconds."""
    began = perf_counter()
    step()
    return (perf_counter() - began) * 1000


def queries(store: TranscriptStore, chance: random.Random, count: int) -> Sequence[str]:
    """One to three neighbouring words of random messages."""
    ids = [one.id for one in store.list_conversations()]
    drawn: list[str] = []
    while len(drawn) < count:
        turn = chance.choice(store.get_conversation(chance.choice(ids)).turns)
        words = chance.choice((turn.prompt, turn.text)).split()
        at = chance.randrange(len(words))
        drawn.append(" ".join(words[at : at + chance.randint(1, 3)]))
    return drawn


def measure(store: TranscriptStore, chance: random.Random) -> None:
    """The figures, each over many runs, warm."""
    asked = queries(store, chance, 200)
    for query in asked:
        store.search_turns(query, SearchFilters(), 20)
    searched = {query: clocked(partial(store.search_turns, query, SearchFilters(), 20)) for query in asked}
    common = [clocked(lambda: store.search_turns(COMMON, SearchFilters(), 20)) for _ in range(20)]
    both = [clocked(lambda: store.search_turns(f"{COMMON} {asked[0]}", SearchFilters(), 20)) for _ in range(5)]
    listed = [clocked(lambda: store.list_conversations(20)) for _ in range(50)]
    ids = [one.id for one in store.list_conversations()]
    opened = [clocked(lambda: store.get_conversation(chance.choice(ids))) for _ in range(500)]
    longest = max(store.list_conversations(), key=lambda one: one.turns)
    whole = [clocked(lambda: store.get_conversation(longest.id)) for _ in range(10)]
    latest = [clocked(lambda: store.get_conversation(store.latest_id() or "")) for _ in range(50)]
    rows = [
        ("search, 200 queries", searched.values()),
        ("search, the word in half of all", common),
        ("search, that word and another query", both),
        ("listing 20", listed),
        ("opening any of 500", opened),
        (f"opening the longest ({longest.turns} turns)", whole),
        ("opening the newest (ask -c)", latest),
    ]
    table(
        ("milliseconds", "median", "p90", "most"),
        [(what, statistics.median(took), percentile(list(took), 0.9), max(took)) for what, took in rows],
    )
    worst = sorted(searched, key=searched.__getitem__)[-3:]
    say("slowest: " + "; ".join(f"{query!r} {searched[query]:.0f} ms" for query in worst))
    limit("search", statistics.median(searched.values()), 50, "ms")
    limit("search for the common word", statistics.median(common), 150, "ms")
    limit("listing", statistics.median(listed), 20, "ms")
    limit("opening, at most", max(opened), 20, "ms")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=500_000, help="a turn is two messages")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        store = TranscriptStore.open_file(folder / "logs.db")
        if store.latest_id() is None:
            fill(store, given.turns, chance)
        measure(store, chance)
        store.close()
        say(f"opening the store: {clocked(lambda: TranscriptStore.open_file(folder / 'logs.db')):.1f} ms")


if __name__ == "__main__":
    main()
