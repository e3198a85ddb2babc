"""From key to echo while an answer streams into a long conversation, in a real pseudo-terminal.

Each key is a character that nothing else on the screen has, so that its echo is found in the bytes.

    python benchmarks/key_echo.py [CHARACTERS [TOKENS_PER_SECOND [KEYS]]]
"""

from __future__ import annotations

import os
import pty
import select
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ


def read_until(terminal: int, words: Sequence[bytes], timeout_s: float) -> bytes:
    """What was written, up to and with one of the words."""
    seen, end = b"", time.perf_counter() + timeout_s
    while not any(word in seen for word in words):
        ready, _, _ = select.select([terminal], [], [], max(0.0, end - time.perf_counter()))
        if not ready:
            raise SystemExit(f"none of {words!r} was drawn; last came {seen[-300:]!r}")
        seen += os.read(terminal, 1 << 16)
    return seen


def drain(terminal: int, seconds: float) -> bytes:
    """What is written in so many seconds."""
    seen, end = b"", time.perf_counter() + seconds
    while (left := end - time.perf_counter()) > 0:
        if select.select([terminal], [], [], left)[0]:
            seen += os.read(terminal, 1 << 16)
    return seen


def main() -> None:
    characters, pace, keys = (*map(int, sys.argv[1:4]), *(200_000, 100, 200)[len(sys.argv) - 1 :])[:3]
    with tempfile.TemporaryDirectory() as folder:
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
            driver = str(Path(__file__).with_name("scripted_chat.py"))
            os.execv(sys.executable, [sys.executable, driver, folder, str(characters), str(pace)])
        ioctl(terminal, TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        took = []
        try:
            read_until(terminal, (b"scripted",), 20)
            drain(terminal, 1)
            os.write(terminal, b"go\r")
            drain(terminal, 3)
            for key in range(keys):
                letter = chr(0x1401 + key).encode()  # Canadian syllabics
                began = time.perf_counter()
                os.write(terminal, letter)
                read_until(terminal, (letter,), 10)
                took.append(time.perf_counter() - began)
                drain(terminal, 0.05)
                if key % 40 == 39:
                    os.write(terminal, b"\x15")  # Ctrl+U empties the line
                    drain(terminal, 0.2)
            status = Path(f"/proc/{pid}/status")
            memory = status.read_text().split("VmRSS:")[1].split()[0] if status.exists() else "?"
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    took.sort()
    sys.stdout.write(
        f"{characters:,} characters, {pace} tokens/s: key to echo median {took[len(took) // 2] * 1000:.1f} ms, "
        f"p99 {took[int(len(took) * 0.99)] * 1000:.1f} ms, worst {took[-1] * 1000:.1f} ms ({keys} keys); "
        f"memory {memory} kB\n"
    )


if __name__ == "__main__":
    main()
