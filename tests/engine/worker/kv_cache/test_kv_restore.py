"""Conversations restored from KV files by a later engine process."""

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from phichat.cancel import CancelToken
from phichat.config.settings import EngineOptions
from phichat.engine.autotune.cpu_buffer_probe import ProbeCache
from phichat.engine.kv_store import COMPLETE_SUFFIX, KvStore
from phichat.engine.local import LocalBackend
from phichat.events import SampleFinished, TurnFinished
from phichat.types import Message, Role, SamplingParams
from support.demo_model import embedded_model

GREEDY = SamplingParams(temperature=0, max_tokens=8)
STORY = (
    "Once upon a time there was a ship that sailed to the end of the sea, and nobody knew when it would return. " * 6
)
FIRST = [Message(Role.USER, f"{STORY}\nWhat sailed?")]
MOST = 140
"""Tokens of the story, nearly."""


def backend(folder: Path, budget: int = 10**9, **options: object) -> LocalBackend:
    """Return a loaded backend that saves KV files in folder/states."""
    engine = EngineOptions(**{"ctx_size": 1024, **options})  # type: ignore[arg-type]
    verdicts, kept = ProbeCache(folder / "engine.json"), KvStore(folder / "states", budget)
    made = LocalBackend("model", embedded_model(), engine, verdicts, kv_store=kept)
    list(made.load(CancelToken()))
    return made


def ask(engine: LocalBackend, messages: list[Message], owner: str = "talk") -> TurnFinished:
    *_, last = engine.generate(messages, GREEDY, CancelToken(), owner)
    assert isinstance(last, TurnFinished)
    return last


def then(before: list[Message], answer: TurnFinished, asked: str) -> list[Message]:
    return [*before, Message(Role.ASSISTANT, answer.text), Message(Role.USER, asked)]


def gone(engine: LocalBackend) -> None:
    """Close it and wait until its process has ended, which saves its sequences on exit."""
    process = psutil.Process(engine.pid)
    engine.close()
    process.wait(30)


def states(folder: Path) -> list[Path]:
    return sorted((folder / "states").glob(f"*{COMPLETE_SUFFIX}"))


def owners(folder: Path) -> list[str]:
    return sorted(path.name.split("-")[1] for path in states(folder))


@dataclass(frozen=True)
class Past:
    """A conversation of one turn, and the second answer of an engine that goes on with it at once."""

    folder: Path
    first: TurnFinished
    second: TurnFinished

    @property
    def messages(self) -> list[Message]:
        return then(FIRST, self.first, "Where did it go?")


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Past:
    folder = tmp_path_factory.mktemp("past")
    engine = backend(folder)
    first = ask(engine, FIRST)
    gone(engine)
    engine = backend(folder, budget=0)
    ask(engine, FIRST)
    second = ask(engine, then(FIRST, first, "Where did it go?"))
    gone(engine)
    return Past(folder, first, second)


@pytest.fixture
def home(past: Past, tmp_path: Path) -> Path:
    """Return a copy of its folder with the KV files."""
    return Path(shutil.copytree(past.folder, tmp_path / "home"))


@pytest.fixture
def start(home: Path) -> Iterator[Callable[..., LocalBackend]]:
    started = []

    def made(**options: object) -> LocalBackend:
        started.append(backend(home, **options))  # type: ignore[arg-type]
        return started[-1]

    yield made
    for one in started:
        one.close()


Start = Callable[..., LocalBackend]


def test_a_restored_conversation_continues_as_in_the_same_engine(start: Start, past: Past, home: Path) -> None:
    again = ask(start(), past.messages)
    assert again.text == past.second.text
    assert again.usage == past.second.usage
    assert again.usage.cached_tokens > MOST
    assert again.timings.restore_s > 0
    if os.name == "posix":
        (path,) = states(home)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_forks_and_edits_restore_their_prefix(start: Start, past: Past, home: Path) -> None:
    engine = start()
    fork = ask(engine, then(FIRST, past.first, "Who knew?"), owner="fork")
    assert fork.usage.cached_tokens > MOST
    gone(engine)
    edited = ask(start(), [Message(Role.USER, f"{STORY}\nWho sailed?")])
    assert edited.usage.cached_tokens > MOST
    assert owners(home) == ["fork", "talk"]


def test_a_longer_file_replaces_the_shorter_one_of_the_conversation(start: Start, past: Past, home: Path) -> None:
    before = KvStore(home / "states").size
    engine = start()
    ask(engine, past.messages)
    gone(engine)
    assert owners(home) == ["talk"]
    assert KvStore(home / "states").size > before


def test_an_idle_engine_saves_the_conversation_and_may_be_killed_then(start: Start, home: Path) -> None:
    engine = start()
    shutil.rmtree(home / "states")
    (home / "states").mkdir()
    ask(engine, FIRST)
    until = time.monotonic() + 120
    while not states(home) and time.monotonic() < until:
        time.sleep(0.05)
    process = psutil.Process(engine.pid)
    with pytest.raises(psutil.TimeoutExpired):
        process.wait(0.7)  # it goes on when nothing is left to save
    process.kill()
    process.wait(60)
    assert ask(start(), FIRST).usage.cached_tokens > MOST


def test_unnamed_short_and_deleted_conversations_are_not_saved(start: Start, home: Path) -> None:
    engine = start()
    for asked, owner in ((f"Secret. {STORY}", ""), ("Too short.", "short"), (f"Removed. {STORY}", "removed")):
        ask(engine, [Message(Role.USER, asked)], owner)
    KvStore(home / "states").delete_conversation("removed")
    gone(engine)
    assert owners(home) == ["talk"]


def test_a_damaged_file_is_removed_and_the_prompt_evaluated_again(start: Start, past: Past, home: Path) -> None:
    (path,) = states(home)
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    again = ask(start(), FIRST)
    assert (again.text, again.usage.cached_tokens) == (past.first.text, 0)
    assert not path.exists()


@pytest.mark.parametrize("options", [{"ctx_size": 512}, {"cache_type_k": "q8_0"}])
def test_a_file_of_other_settings_is_not_used(start: Start, home: Path, options: dict[str, object]) -> None:
    assert ask(start(**options), FIRST).usage.cached_tokens == 0
    assert owners(home) == ["talk"]


def test_the_budget_holds(start: Start, home: Path) -> None:
    (path,) = states(home)
    budget = int(path.stat().st_size * 1.5)
    engine = start(budget=budget)
    ask(engine, [Message(Role.USER, f"Not the same. {STORY}")], owner="other")
    gone(engine)
    assert owners(home) == ["other"]
    assert KvStore(home / "states").size <= budget


def test_samples_restore_a_prefix_and_are_not_saved(past: Past, tmp_path: Path) -> None:
    shutil.copytree(past.folder, tmp_path, dirs_exist_ok=True)
    before, engine = owners(tmp_path), backend(tmp_path)
    events = list(engine.generate_n(past.messages, SamplingParams(seed=1, max_tokens=8), 3, CancelToken()))
    cached = {event.reply.usage.cached_tokens for event in events if isinstance(event, SampleFinished)}
    assert min(cached) > MOST
    gone(engine)
    assert owners(tmp_path) == before
