"""The full-screen chat in a real pseudo-terminal, with a real engine: first key to last."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from support.demo_model import embedded_model, no_other_models

if sys.platform == "win32":
    pytest.skip("pseudo-terminals are POSIX's", allow_module_level=True)

import fcntl
import pty
import select
import termios

import pyte

ROWS, COLUMNS = 30, 90
ESCAPE, CTRL_C, CTRL_Q, ENTER, CTRL_HOME = "\x1b", "\x03", "\x11", "\r", "\x1b[1;5H"


class Terminal:
    """A program in a terminal, and what is seen there."""

    def __init__(self, home: Path, *command: str) -> None:
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self.screen)
        self.written = b""
        self.pid, self._ours = pty.fork()
        if self.pid == 0:
            os.chdir(home)
            extra = {"PHICHAT_HOME": str(home), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
            os.execve(sys.executable, [sys.executable, *command], {**os.environ, **no_other_models(home), **extra})
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.settings = termios.tcgetattr(self._ours)

    @property
    def seen(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def read(self, timeout_s: float = 0.05) -> bool:
        """Take in what comes. Whether the program still has the terminal."""
        if not select.select([self._ours], [], [], timeout_s)[0]:
            return True
        try:
            piece = os.read(self._ours, 1 << 16)
        except OSError:  # Linux's way to say that the other side has closed
            return False
        self.written += piece
        # pyte knows neither the private forms of some sequences nor what xterm is asked with.
        self._stream.feed(re.sub(rb"\x1b\[[<>=][0-9;]*[a-zA-Z]|\x1b\[\?[0-9;]*\$p|\x1bP.*?\x1b\\", b"", piece))
        return bool(piece)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def until(self, text: str, timeout_s: float = 30) -> str:
        end = time.monotonic() + timeout_s
        while text not in self.seen:
            assert time.monotonic() < end, f"{text!r} is not to be seen in:\n{self.seen}"
            assert self.read(), f"{text!r} was not seen before the end:\n{self.seen}"
        return self.seen

    def send(self, prompt: str) -> None:
        """Type it, see that it stands there, and Enter."""
        self.type(prompt)
        self.until(prompt)
        self.type(ENTER)

    def end(self, timeout_s: float = 15) -> int:
        """Wait for it. Its exit code."""
        end = time.monotonic() + timeout_s
        while self.read():
            assert time.monotonic() < end, f"it goes on:\n{self.seen}"
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        with_it = [psutil.Process(self.pid)] if psutil.pid_exists(self.pid) else []
        for process in [child for one in with_it for child in one.children(recursive=True)] + with_it:
            process.kill()
        os.close(self._ours)

    def engine(self) -> psutil.Process:
        """The process that computes."""
        return next(
            one
            for one in psutil.Process(self.pid).children(recursive=True)
            if "phichat.engine" in " ".join(one.cmdline())
        )

    def is_as_before(self) -> bool:
        """Whether the terminal was left as it was found: its screen, its cursor, its mouse, its way to read keys."""
        modes = {
            mode: last[-1:]
            for mode, last in re.findall(rb"\x1b\[\?(1049|25|1000|1002|1003|1006|2004|1004)([hl])", self.written)
        }
        return {mode for mode, state in modes.items() if state == b"h"} <= {b"25"} and modes[b"25"] == b"h"


@contextmanager
def chat(home: Path, *arguments: str, driver: str = "") -> Iterator[Terminal]:
    command = [driver] if driver else ["-m", "phichat", "chat", "-m", str(embedded_model()), "--temp", "0"]
    terminal = Terminal(home, *command, *arguments)
    try:
        yield terminal
    finally:
        terminal.close()


def ready(terminal: Terminal) -> None:
    """The model is loaded: its place is known."""
    terminal.until(" CPU")


LONG = "Write a long story about a ship, in many chapters."
"""Greedily, the model needs some hundred tokens for it."""


def test_from_the_first_key_to_the_export(tmp_path: Path) -> None:
    with chat(tmp_path) as terminal:
        terminal.type("Is it ready?")  # while the model loads
        terminal.until("Is it ready?")
        ready(terminal)
        terminal.type("\x15")
        terminal.send(LONG)
        terminal.until("writing")
        time.sleep(0.3)
        terminal.type(ESCAPE)
        terminal.until("stopped")
        terminal.send("/export md said.md")
        terminal.until("Saved said.md")
        terminal.type(CTRL_Q)
        assert terminal.end() == 0
        assert terminal.is_as_before()
    assert LONG in (tmp_path / "said.md").read_text("utf-8")


def test_what_was_said_is_there_again_after_a_kill(tmp_path: Path) -> None:
    with chat(tmp_path) as terminal:
        ready(terminal)
        terminal.send(LONG)
        terminal.until("writing")
        time.sleep(2.5)  # what is said is written down every second
        engine = terminal.engine()
        os.kill(terminal.pid, signal.SIGKILL)
        terminal.end()
        assert psutil.wait_procs([engine], timeout=5)[1] == []
    with chat(tmp_path, "-c") as terminal:
        terminal.until("cut off")
        terminal.type(CTRL_HOME)
        terminal.until(LONG)
        terminal.type(CTRL_Q)
        assert terminal.end() == 0


def test_ctrl_c_stops_once_and_quits_twice(tmp_path: Path) -> None:
    with chat(tmp_path) as terminal:
        ready(terminal)
        terminal.send(LONG)
        terminal.until("writing")
        terminal.type(CTRL_C)
        terminal.until("stopped")
        time.sleep(1.6)
        terminal.type(CTRL_C)
        terminal.until("again to quit")
        terminal.type(CTRL_C)
        assert terminal.end() == 0
        assert terminal.is_as_before()


def test_an_engine_that_dies_is_told_and_the_next_prompt_is_answered(tmp_path: Path) -> None:
    with chat(tmp_path) as terminal:
        ready(terminal)
        terminal.send(LONG)
        terminal.until("writing")
        terminal.engine().kill()
        terminal.until("The engine")
        terminal.send(LONG)
        terminal.until("writing")
        terminal.type(ESCAPE)
        terminal.until("stopped")
        terminal.type(CTRL_Q)
        assert terminal.end() == 0


CRASHING = """
import sys
from pathlib import Path
import phichat.tui.app
from phichat.cli.chat import run_app
from phichat.config.settings import Config
from phichat.services.app_context import AppContext
from phichat.services.chat_service import ChatService
from phichat.engine.scripted_backend import ScriptedBackend, ScriptedReply
from phichat.paths import Paths
from phichat.tui.app import PhichatApp

class Failing(PhichatApp):
    CSS_PATH = Path(phichat.tui.app.__file__).with_name("phichat.tcss")
    BINDINGS = [("f9", "fail", "Fail")]

    def action_fail(self):
        raise ValueError(f"it quotes {self.screen.context.conversation.branch} and a secret word")

backend = ScriptedBackend([ScriptedReply(["secret "] * 4000, delay_s=0.005)], 100_000)
sys.exit(run_app(Failing(ChatService(AppContext(Config(), Paths.from_environment()), lambda model: backend))))
"""


def test_a_crash_of_the_interface_leaves_the_terminal_and_the_transcript_whole(tmp_path: Path) -> None:
    driver = tmp_path / "failing.py"
    driver.write_text(CRASHING)
    with chat(tmp_path, driver=str(driver)) as terminal:
        ready(terminal)
        terminal.send("A secret question")
        terminal.until("secret secret")
        terminal.type("\x1b[20~")
        assert terminal.end() == 1
        assert terminal.is_as_before()
        last = " ".join(terminal.seen.split())
        assert "phichat crashed; your conversation is safe" in last
        report = next((tmp_path / "data").glob("crash-*.txt"))
        assert report.name in last.replace(" ", "")
    about = report.read_text("utf-8")
    assert "action_fail" in about
    assert "ValueError" in about
    assert "secret" not in about.replace('"it quotes {self.screen.context.conversation.branch} and a secret word"', "")
    said = subprocess.run(
        [sys.executable, "-m", "phichat", "export", "--last"],
        env={**os.environ, "PHICHAT_HOME": str(tmp_path)},
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout
    assert "A secret question" in said
    assert "secret secret" in said
