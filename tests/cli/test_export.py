"""`phichat export` as a user runs it: real files, real streams, a real store."""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phichat.paths import Paths
from phichat.transcript.export import ExportFormat, write_export
from phichat.transcript.importers import read_file
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.transcript.store import TranscriptStore
from phichat.types import FinishReason
from support.conversation_strategies import Page, conversations, read_markdown

Run = Callable[..., subprocess.CompletedProcess[str]]

NOW = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)


def conversation(identity: str, minutes: int, prompt: str = "p", text: str = "a") -> ConversationRecord:
    when = NOW + timedelta(minutes=minutes)
    turn = TurnRecord(f"{identity}1", None, when, prompt, text, finish_reason=FinishReason.STOP)
    return ConversationRecord(identity, f"Title {identity}", when, when, (turn,), turn.id)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> TranscriptStore:
    store = TranscriptStore.open_file(Paths.from_environment({"PHICHAT_HOME": str(home)}).logs)
    store.add_conversation(conversation("abc", 0, "first?", "one"))
    store.add_conversation(conversation("abd", 5, "hostile \x1b[31m", "\x00\x9b \u202e <script>"))
    return store


@pytest.fixture
def run(home: Path, store: TranscriptStore) -> Run:
    def start(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "phichat", *arguments]
        environment = {**os.environ, "PHICHAT_HOME": str(home)}
        return subprocess.run(
            command, input="", capture_output=True, text=True, env=environment, encoding="utf-8", check=False
        )

    return start


def test_the_last_conversation_goes_to_stdout_as_markdown(run: Run) -> None:
    done = run("export")
    assert (done.returncode, done.stderr) == (0, "")
    assert read_markdown(done.stdout) == [("user", "hostile \x1b[31m"), ("assistant", "\x00\x9b \u202e <script>")]
    assert run("export", "--last").stdout == done.stdout


def test_which_conversations(run: Run) -> None:
    def titles(*arguments: str) -> list[str]:
        document = json.loads(run("export", "--format", "json", *arguments).stdout)
        return [one["title"] for one in document["conversations"]]

    assert titles("abc") == ["Title abc"]
    assert titles("abd", "abc") == ["Title abd", "Title abc"]
    assert titles("--all") == ["Title abd", "Title abc"]
    for arguments, said in ((["nope"], "nope"), (["ab"], "Several"), (["abc", "--all"], "exclude")):
        done = run("export", *arguments)
        assert done.returncode in (1, 2)
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_nothing_to_export_is_a_sentence(tmp_path: Path) -> None:
    environment = {**os.environ, "PHICHAT_HOME": str(tmp_path / "empty")}
    command = [sys.executable, "-m", "phichat", "export"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "phichat ask" in done.stderr


def test_the_format_follows_the_name_of_the_file(run: Run, tmp_path: Path) -> None:
    begins = {
        "a.html": "<!DOCTYPE html>",
        "a.json": "{",
        "a.md": "---",
        "a.jsonl": '{"messages"',
        "a.txt": "Title",
        "a.x": "---",
    }
    for name, begin in begins.items():
        file = tmp_path / name
        assert run("export", "abc", "-o", str(file)).returncode == 0
        assert file.read_text("utf-8").startswith(begin)
        assert sys.platform == "win32" or stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_file_is_never_replaced_without_asking(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text("mine")
    done = run("export", "-o", str(file))
    assert (done.returncode, done.stdout, file.read_text()) == (2, "", "mine")
    assert "-y" in done.stderr
    assert run("export", "-y", "-o", str(file)).returncode == 0
    assert file.read_text("utf-8").startswith("---")
    done = run("export", "-o", str(tmp_path))
    assert (done.returncode, "directory" in done.stderr) == (1, True)


def test_stdout_and_a_file_hold_the_same(run: Run, tmp_path: Path) -> None:
    for form in ExportFormat:
        file = tmp_path / f"x.{form}"
        run("export", "--all", "-o", str(file))
        shown = run("export", "--all", "--format", form)
        assert shown.stdout.encode() == file.read_bytes()
        assert not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in shown.stdout if char not in "\n\t")


def test_jsonl_says_what_it_leaves_out(run: Run, store: TranscriptStore) -> None:
    cut = conversation("zzz", 9)
    store.add_conversation(replace(cut, turns=(replace(cut.turns[0], finish_reason=None),)))
    done = run("export", "zzz", "--format", "jsonl")
    assert done.stdout == ""
    assert "Left out: 1 unfinished or empty turn" in done.stderr


@settings(max_examples=10, deadline=None)
@given(st.lists(conversations(), min_size=1, max_size=3, unique_by=(lambda one: one.id, lambda one: one.origin)))
def test_json_through_an_empty_store_is_byte_identical(records: list[ConversationRecord]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.json"
        file.write_text("".join(write_export(records, ExportFormat.JSON)), "utf-8")
        store = TranscriptStore.open_file(Path(folder) / "logs.db")
        kept = [one for one in read_file(file) if store.add_conversation(one)]
        back = [store.get_conversation(one.id) for one in kept]
        store.close()
        assert "".join(write_export(back, ExportFormat.JSON)) == file.read_text("utf-8")


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="no browser")
def test_in_a_browser_nothing_of_the_content_becomes_an_element(
    run: Run, store: TranscriptStore, tmp_path: Path
) -> None:
    hostile = (
        "</script><script>document.title='x'</script><img src=x onerror=\"document.title='y'\"><svg/onload=alert(1)>"
    )
    code = "```python\nprint('</code></pre><b>')\n```"
    store.add_conversation(
        conversation("bad", 9, hostile, f"{hostile}\n\n{code}\n\n[a](javascript:alert(1)) ![i](http://x.test/y.png)")
    )
    page = tmp_path / "page.html"
    assert run("export", "bad", "-o", str(page)).returncode == 0
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, timeout=60, check=True)
    shown = done.stdout.decode()
    assert "<title>Title bad</title>" in shown
    tags = {tag for tag, _ in Page(shown).elements}
    assert not tags & {"img", "svg", "b", "iframe"}
    assert shown.count("<script") == 2
    assert Page(shown).texts()[0] == ("user", hostile)
