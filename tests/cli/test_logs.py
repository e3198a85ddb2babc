"""`phichat logs` and `ask -c` as a user runs them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from phichat.cli.support.time_range import parse_time_range
from phichat.code_report import CodeReport
from phichat.engine.kv_store import COMPLETE_SUFFIX, KvStore
from phichat.errors import UsageError
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.transcript.store import TranscriptStore
from phichat.types import FinishReason, ModelInfo
from support.demo_model import embedded_model, without_machine_remarks

Run = Callable[..., subprocess.CompletedProcess[str]]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return tmp_path / "home" / "data" / "logs.db"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    environment = {**os.environ, "PHICHAT_HOME": str(tmp_path / "home"), "PHICHAT_MODEL": str(embedded_model())}

    def start(*arguments: str, timeout: float = 60, **extra: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "phichat", *arguments]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment | extra,
            timeout=timeout,
            encoding="utf-8",
        )
        done.stderr = without_machine_remarks(done.stderr)
        return done

    return start


@pytest.fixture
def filled(logs: Path) -> TranscriptStore:
    store = TranscriptStore.open_file(logs)
    turns = (
        TurnRecord("t1", None, NOON, "What is a \x1b[31mzebra?", "A striped horse.", model=ModelInfo("phi")),
        TurnRecord(
            "t2", "t1", NOON, "And where?", "In Africa.", model=ModelInfo("phi"), finish_reason=FinishReason.STOP
        ),
        TurnRecord("t3", "t1", NOON, "And why?", "Flies", code=CodeReport(warnings=("beware",))),
    )
    store.add_conversation(ConversationRecord("abc1", "Zebras", NOON, NOON, turns, "t3"))
    later = NOON + timedelta(days=2)
    store.add_conversation(ConversationRecord("abd2", "Empty", later, later))
    return store


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    return line


def test_a_conversation_goes_on(run: Run) -> None:
    usual = ("ask", "--json", "--temp", "0", "--max-tokens", "12")
    first = json.loads(run(*usual, "-s", "Be brief.", "My name is Bob.").stdout)
    again = json.loads(run(*usual, "-c", "What is my name?", PHICHAT_MODEL="").stdout)
    by_id = json.loads(run(*usual, "--cid", first["conversation_id"][:10], "And yours?").stdout)
    assert first["conversation_id"] == again["conversation_id"] == by_id["conversation_id"]
    assert first["usage"]["prompt_tokens"] < again["usage"]["prompt_tokens"] < by_id["usage"]["prompt_tokens"]
    (listed,) = json.loads(run("logs", "--json").stdout)
    assert (listed["turns"], listed["title"]) == (3, "My name is Bob.")
    shown = json.loads(run("logs", "show", first["conversation_id"], "--json").stdout)
    assert [turn["system"] for turn in shown["turns"]] == ["Be brief."] * 3
    assert [turn["text"] for turn in shown["turns"]] == [first["text"], again["text"], by_id["text"]]


def test_nothing_is_kept_when_nothing_is_wanted(run: Run, logs: Path) -> None:
    usual = ("ask", "--json", "--max-tokens", "1", "hi")
    (logs.parent.parent / "config").mkdir(parents=True)
    for extra, environment in ((("-n",), {}), ((), {"PHICHAT_NO_LOG": "1"})):
        assert json.loads(run(*usual, *extra, **environment).stdout)["conversation_id"] is None
    (logs.parent.parent / "config" / "config.toml").write_text("log = false\n")
    assert json.loads(run(*usual).stdout)["conversation_id"] is None
    assert not logs.exists()


def test_going_on_where_nothing_was_begins_something(run: Run) -> None:
    done = run("ask", "-c", "--json", "--max-tokens", "1", "hi")
    assert json.loads(done.stdout)["conversation_id"]
    assert "No conversation to continue yet" in one_sentence(done)


def test_a_model_that_is_gone_is_named(run: Run, filled: TranscriptStore) -> None:
    gone = run("ask", "--cid", "abc1", "hi")
    assert gone.returncode == 3
    assert "phi" in one_sentence(gone)
    other = run("ask", "--cid", "abc1", "-m", str(embedded_model()), "--max-tokens", "1", "hi")
    assert other.returncode == 0
    assert "Switching from phi to " in one_sentence(other)


def test_a_store_that_cannot_be_used_costs_one_line(run: Run, logs: Path) -> None:
    logs.parent.mkdir(parents=True)
    logs.write_text("no database " * 100)
    done = run("ask", "--json", "--max-tokens", "2", "hi")
    assert (done.returncode, json.loads(done.stdout)["conversation_id"]) == (0, None)
    assert "isn't being saved" in one_sentence(done)
    listing = run("logs")
    assert listing.returncode == 1
    assert "damaged" in one_sentence(listing)


def test_the_listing_and_its_filters(run: Run, filled: TranscriptStore) -> None:
    assert [one["id"] for one in json.loads(run("logs", "--json").stdout)] == ["abd2", "abc1"]
    assert [one["id"] for one in json.loads(run("logs", "--json", "-n", "1").stdout)] == ["abd2"]
    assert [one["id"] for one in json.loads(run("logs", "--json", "--until", "2026-03-02").stdout)] == ["abc1"]
    assert [one["id"] for one in json.loads(run("logs", "--json", "--code-warnings").stdout)] == ["abc1"]
    lines = run("logs").stdout.splitlines()
    assert lines[0].startswith("abd2") and lines[1].endswith("Zebras")
    assert one_sentence(run("logs", "--since", "whenever"))


def test_a_search(run: Run, filled: TranscriptStore) -> None:
    (hit,) = json.loads(run("logs", "-q", "striped", "--json").stdout)
    assert (hit["id"], hit["turn"], hit["role"], hit["snippet"]) == ("abc1", 1, "assistant", "A «striped» horse.")
    shown = run("logs", "-q", "horse").stdout
    assert "«horse»" in shown
    assert "\x1b" not in shown
    for typed in ('"', "a OR", "NEAR(", "*", "^x", "prompt:x", "--", "😀"):
        done = run("logs", f"--query={typed}")
        assert (done.returncode, done.stderr) == (0, "")


def test_a_conversation_to_read(run: Run, filled: TranscriptStore) -> None:
    shown = run("logs", "show", "abc").stdout
    assert "A striped horse." in shown and "Flies" in shown and "[beware]" in shown
    assert "alternatives: t2" in shown
    assert "cut off" in shown
    assert "\x1b" not in shown
    assert "In Africa." in run("logs", "show", "abc", "--branch", "t2").stdout
    assert "abd2, abc1" in one_sentence(run("logs", "show", "ab"))


def test_a_removed_conversation_leaves_no_kv_state(run: Run, filled: TranscriptStore, tmp_path: Path) -> None:
    folder = KvStore(tmp_path / "home" / "cache" / "states")
    folder.path.mkdir(parents=True)
    for owner in ("abc1", "abd2"):
        folder.make_partial_path("0" * 64, owner, 1.0).with_suffix(COMPLETE_SUFFIX).touch()
    assert run("logs", "rm", "-y", "abc").returncode == 0
    assert [file.conversation_key for file in folder.list_files()] == ["abd2"]


def test_fork_rename_remove_and_stats(run: Run, filled: TranscriptStore, tmp_path: Path) -> None:
    made = run("logs", "fork", "abc", "--at", "1").stdout.strip()
    assert run("logs", "rename", made, "A", "new\x1b title").returncode == 0
    assert json.loads(run("logs", "--json", "-n", "1").stdout)[0]["title"] == "A new␛ title"
    unasked = run("logs", "rm", made)
    assert unasked.returncode == 2
    assert "-y" in one_sentence(unasked)
    assert run("logs", "rm", "-y", made, "abd").returncode == 0
    stats = json.loads(run("logs", "stats", "--json").stdout)
    assert (stats["conversations"], stats["turns"], stats["cut_off"]) == (1, 3, 2)
    copy = tmp_path / "copy.db"
    assert run("logs", "backup", str(copy)).returncode == 0
    assert "exists" in one_sentence(run("logs", "backup", str(copy)))
    assert TranscriptStore.open_file(copy).get_conversation("abc1") == filled.get_conversation("abc1")


def test_times_as_people_type_them() -> None:
    now = NOON + timedelta(hours=3)
    day = timedelta(days=1)
    midnight = NOON - timedelta(hours=12)
    assert parse_time_range("2026-03-01", now) == parse_time_range(" today", now) == (midnight, midnight + day)
    assert parse_time_range("Yesterday", now) == (midnight - day, midnight)
    assert parse_time_range("7d", now)[0] == now - 7 * day
    assert parse_time_range("2 weeks ago", now)[0] == now - 14 * day
    assert parse_time_range("2026-03-01T12:00Z", now) == (NOON, NOON)
    for typed in ("", "soon", "9999999d", "2026-02-30", "\0"):
        with pytest.raises(UsageError):
            parse_time_range(typed, now)
