"""`phichat logs import` and `phichat logs replay` as a user runs them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.demo_model import embedded_model
from support.tiny_gguf import write_tiny_llama

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def start(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "phichat", *map(str, arguments)]
        environment = {**os.environ, "PHICHAT_HOME": str(tmp_path / "home"), "PHICHAT_MODEL": str(embedded_model())}
        return subprocess.run(
            command, input="", capture_output=True, text=True, env=environment, encoding="utf-8", check=False
        )

    return start


def test_what_is_imported_twice_is_there_once(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "said.json"
    file.write_text(
        json.dumps([{"role": "user", "content": "Hello 🦊"}, {"role": "assistant", "content": "\x1b[1mHi"}])
    )
    first, second = run("logs", "import", file), run("logs", "import", "--json", file)
    assert first.stdout == "1 conversation with 1 turn imported\n"
    assert json.loads(second.stdout) == {"imported": 0, "turns": 0, "known": 1}
    exported = run("export", "--format", "jsonl")
    assert json.loads(exported.stdout)["messages"] == json.loads(file.read_text())


def test_phichats_own_json_comes_back_byte_for_byte(run: Run, tmp_path: Path) -> None:
    run("ask", "--max-tokens", "4", "-s", "Be brief.", "hi")
    run("ask", "-c", "--max-tokens", "4", "and now?")
    file = tmp_path / "all.json"
    assert run("export", "--all", "-o", file).returncode == 0
    for name in (tmp_path / "home").glob("data/logs.db*"):
        name.unlink()
    assert run("logs", "import", file).stdout == "1 conversation with 2 turns imported\n"
    assert run("export", "--all", "--format", "json").stdout.encode() == file.read_bytes()


def test_a_file_that_cannot_be_imported_is_a_sentence(run: Run, tmp_path: Path) -> None:
    huge = {"format": "phichat", "version": 1, "conversations": []}
    times = {"created_at": "2026-01-01T00:00:00+00:00", "updated_at": "2026-01-01T00:00:00+00:00"}
    huge["conversations"] = [{"id": "\ud800", "title": "t", **times}]
    for at, content in enumerate(
        (b"once upon a time", b"\xff", b"SQLite format 3\0nothing", json.dumps(huge).encode())
    ):
        file = tmp_path / f"{at}.x"
        file.write_bytes(content)
        done = run("logs", "import", file)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("phichat: ")
        assert len(done.stderr.splitlines()) == 1
    assert run("logs", "import", tmp_path / "missing").returncode == 1


def test_a_reply_is_run_again(run: Run, tmp_path: Path) -> None:
    asked = json.loads(run("ask", "--json", "--max-tokens", "12", "--seed", "5", "Tell me about the sea.").stdout)
    cid = asked["conversation_id"]
    run("ask", "-c", "--max-tokens", "12", "And the wind?")
    found = json.loads(run("logs", "replay", cid, "--json").stdout)
    assert [(one["turn"], one["identical"], one["first_difference"], one["changed"]) for one in found] == [
        (1, True, None, []),
        (2, True, None, []),
    ]
    shown = run("logs", "replay", cid, "--turn", "2").stdout
    assert shown.startswith("Turn 2: identical, ")
    other = write_tiny_llama(tmp_path / "other.gguf")
    [changed] = json.loads(run("logs", "replay", cid, "--turn", "1", "-m", other, "--temp", "2", "--json").stdout)
    assert not changed["identical"]
    assert {"model", "settings"} <= set(changed["changed"])
    listed = json.loads(run("export", "--format", "json").stdout)["conversations"]
    assert len(listed[0]["turns"]) == 2, "nothing of a replay is kept"


def test_what_cannot_be_run_again_is_a_sentence(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "said.json"
    file.write_text(json.dumps([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]))
    run("logs", "import", file)
    cid = json.loads(run("export", "--format", "json").stdout)["conversations"][0]["id"]
    for arguments in ([cid], [cid, "--turn", "3"], ["nope"]):
        done = run("logs", "replay", *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == 1
