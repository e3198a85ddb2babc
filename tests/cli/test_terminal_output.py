"""What a person sees who runs `phichat ask` in a terminal: a real pseudo-terminal."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.demo_model import embedded_model, no_other_models
from support.tiny_gguf import write_tiny_llama

if sys.platform == "win32":
    pytest.skip("pseudo-terminals are POSIX's", allow_module_level=True)


def seen(home: Path, *arguments: str, typed: str = "", **extra: str) -> str:
    """All bytes that a terminal on stdin, stdout and stderr gets."""
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, **no_other_models(home), "PHICHAT_HOME": str(home), **extra}
    command = [sys.executable, "-m", "phichat", *arguments]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        os.write(ours, typed.encode())
        content = b""
        try:
            while piece := os.read(ours, 65536):
                content += piece
        except OSError:
            pass  # Linux's way to say that the other side has closed
        process.wait(120)
    os.close(ours)
    return content.decode("utf-8")


def test_progress_is_shown_and_gone_again(tmp_path: Path) -> None:
    shown = seen(
        tmp_path, "ask", "-n", "-m", str(embedded_model()), "--temp", "0", "What is 2 + 2? Answer with a number."
    )
    assert "loading" in shown
    last_line = shown.rstrip().rpartition("\r")[2]
    assert "4" in last_line
    assert "\x1b" not in shown


def test_reasoning_is_dim_unless_colours_are_off(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}<think>"
    model = str(write_tiny_llama(tmp_path / "t.gguf", template=template))
    usual = ("ask", "-m", model, "--max-tokens", "8", "--temp", "0", "hello")
    coloured = seen(tmp_path, *usual)
    assert coloured.count("\x1b[2m") == coloured.count("\x1b[0m") == 1
    assert "\x1b" not in seen(tmp_path, *usual, NO_COLOR="1")


def test_nothing_to_say_is_told_not_waited_for(tmp_path: Path) -> None:
    assert "No prompt given" in seen(tmp_path, "ask")


def test_a_check_of_the_file_is_shown(tmp_path: Path) -> None:
    shown = seen(tmp_path, "ask", "-m", str(embedded_model()), "--max-tokens", "1", "hi")
    assert "verifying smollm2-135m" in shown
    assert "checking" not in seen(tmp_path, "ask", "-m", str(embedded_model()), "--max-tokens", "1", "hi")


def test_removing_asks_first(tmp_path: Path) -> None:
    file = tmp_path / "data" / "models" / "a\x1b[31m.gguf"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"12345")
    asked = seen(tmp_path, "rm", str(file), typed="n\n")
    assert "[y/N]" in asked
    assert "\x1b" not in asked
    assert file.exists()
    assert "5 bytes" in seen(tmp_path, "rm", str(file), typed="y\n")
    assert not file.exists()


def test_a_table_is_no_wider_than_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "data" / "models" / f"{'long' * 40}.gguf"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"12345")
    shown = seen(tmp_path, "list", COLUMNS="100")
    (line,) = [line for line in shown.splitlines() if "longlong" in line]
    assert "…" in line


def test_the_last_line_says_how_to_go_on(tmp_path: Path) -> None:
    model = str(write_tiny_llama(tmp_path / "t.gguf"))
    usual = ("ask", "-m", model, "--max-tokens", "2")
    last = seen(tmp_path / "home", *usual, "hello").splitlines()[-1]
    conversation = last.rpartition("--cid ")[2].strip("`.")
    assert last == f"phichat: Continue with `phichat ask --cid {conversation}`."
    assert seen(tmp_path / "home", *usual, "--cid", conversation[:9], "again").splitlines()[-1] == last
    assert "--cid" not in seen(tmp_path / "home", *usual, "-n", "hello")


def test_what_was_found_is_bold(tmp_path: Path) -> None:
    model = str(write_tiny_llama(tmp_path / "t.gguf"))
    seen(tmp_path, "ask", "-m", model, "--max-tokens", "1", "a zebra crossing")
    assert "a \x1b[1mzebra\x1b[0m crossing" in seen(tmp_path, "logs", "-q", "zebra")
    assert "a «zebra» crossing" in seen(tmp_path, "logs", "-q", "zebra", NO_COLOR="1")


def test_removing_asks(tmp_path: Path) -> None:
    model = str(write_tiny_llama(tmp_path / "t.gguf"))
    seen(tmp_path, "ask", "-m", model, "--max-tokens", "1", "hello")
    assert "Delete? [y/N]" in seen(tmp_path, "logs", "rm", "1", typed="n\n")
    assert "hello" in seen(tmp_path, "logs")
    seen(tmp_path, "logs", "rm", "1", typed="y\n")
    assert seen(tmp_path, "logs") == ""
