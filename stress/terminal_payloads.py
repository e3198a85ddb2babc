"""Thousands of escape, C1, bidirectional and zero-width payloads through the full-screen chat in a real
pseudo-terminal; every byte that it writes is looked at, and a terminal emulator gets no title from them.

    python stress/terminal_payloads.py [PAYLOADS [SEED]]

Each payload that would be a control sequence bears a number that nothing else has. What is left after the
sequences that Textual itself writes are taken out may hold no control character at all.
"""

from __future__ import annotations

import json
import os
import pty
import random
import re
import select
import signal
import struct
import sys
import tempfile
import time
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pyte

MARK = "31337"
KINDS = (
    "\x1b[{n}m",
    "\x1b[{n};1H",
    "\x1b[2J{n}",
    "\x1b]0;title{n}\x07",
    "\x1b]52;c;{n}\x07",
    "\x1b]8;;http://evil/{n}\x1b\\x\x1b]8;;\x1b\\",
    "\x9b{n}m",
    "\x9d52;c;{n}\x9c",
    "\x1bP{n}q\x1b\\",
    "\x1b_{n}\x1b\\",
    "\x1bc{n}",
    "\x1b[?1049l{n}",
    "\x1b[6n{n}",
    "\u202e{n}\u202c",
    "\u2066{n}\u2069",
    "\u200b{n}\u2060",
    "a\u200d{n}\u200c",
    "\ufeff{n}",
    "\x07\x08{n}\x7f",
    "\x00{n}\x0e\x0f",
    "\u2028{n}\u2029",
    "[bold red]{n}[/] [link=http://evil]x[/link]",
    "\U000e0041{n}",
    "\x85{n}\x8d",
)
SEQUENCE = re.compile(
    rb"\x1b\[[0-9;?<>=$ ]*[A-Za-z~]|\x1b[78=>(][0B]?|\x1bP\+q[0-9a-f;]*\x1b\\|\x1b\]11;\?\x07|\x1b\]22;[a-z-]*\x07"
)
CONTROL = re.compile(
    "[\x00-\x06\x07\x0b\x0c\x0e-\x1f\x7f\x80-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)


def payloads(count: int, seed: int) -> list[str]:
    """That many, shuffled, some put together of several."""
    chance = random.Random(seed)
    return [
        "".join(chance.choice(KINDS).format(n=f"{MARK}{number}") for _ in range(chance.choice((1, 1, 2))))
        for number in range(count)
    ]


def faults(written: bytes) -> list[str]:
    """What of the bytes is not Textual's own and could act."""
    found = [f"sequence {one!r}" for one in SEQUENCE.findall(written) if MARK.encode() in one]
    text = SEQUENCE.sub(b"", written).decode("utf-8", "replace")
    return found + [f"{text[max(0, one.start() - 20) : one.end() + 20]!r}" for one in CONTROL.finditer(text)]


class Session:
    """One run of the chat."""

    def __init__(self, folder: str, file: Path) -> None:
        self.written = b""
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
            driver = str(Path(__file__).with_name("payload_chat.py"))
            os.execv(sys.executable, [sys.executable, driver, folder, str(file)])
        ioctl(self._terminal, TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))

    def read(self, seconds: float) -> None:
        """Take in what comes for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self._terminal], [], [], left)[0]:
                try:
                    new = os.read(self._terminal, 1 << 16)
                except OSError:
                    return
                self.written += new

    def type(self, keys: str, seconds: float) -> None:
        os.write(self._terminal, keys.encode())
        self.read(seconds)

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._terminal)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "payloads.json"
        made = payloads(count, seed)
        file.write_text(json.dumps(made), "utf-8")
        session = Session(folder, file)
        try:
            session.read(3)
            for turn in range(-(-count // 40)):
                # The prompt brings payloads too: as a bracketed paste, without the escape that would end it.
                pasted = made[turn].replace("\x1b", "\x1a")
                session.type(f"\x1b[200~ask {turn} {pasted}\x1b[201~", 0.05)
                session.type("\r", 0.35)
                if turn % 10 == 0:
                    session.type("\x02", 0.4)
                    session.type("ask", 0.4)
                    session.type("\x1b", 0.3)
                    session.type("\x0f", 0.6)
                    session.type("\x1b[B\x1b[B", 0.1)
                    session.type("\x1b", 0.3)
                if turn % 7 == 0:
                    session.type("/context\r\r", 0.3)
                    session.type("\x1b", 0.3)
            session.type("\x14", 0.2)
            session.type("g", 1.0)
        finally:
            session.end()
    bad = faults(session.written)
    for one in bad[:20]:
        sys.stdout.write(f"  {one}\n")
    sys.stdout.write(f"{count} payloads, {len(session.written):,} bytes written, {len(bad)} that could act\n")
    screen = pyte.Screen(100, 40)
    pyte.ByteStream(screen).feed(session.written)
    # pyte takes the OSC 22 by which Textual sets the pointer for a title.
    if MARK in screen.title + screen.icon_name:
        bad.append("the title of the window")
    seen = session.written.count(MARK.encode())
    sys.stdout.write(f"the payloads' numbers were drawn {seen} times\n")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
