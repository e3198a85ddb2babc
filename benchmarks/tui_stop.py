"""From Esc to "stopped" on the screen, in a real pseudo-terminal on the embedded model: while it writes, and
while it reads a prompt of about 3,000 tokens. An answer that ends by itself before Esc is asked for again.

    python benchmarks/tui_stop.py [TIMES]
"""

from __future__ import annotations

import os
import pty
import signal
import struct
import sys
import tempfile
import time
from fcntl import ioctl
from termios import TIOCSWINSZ

from key_echo import drain, read_until

LONG = "the quick brown fox jumps over the lazy dog " * 330


ENDED = b" tokens \xc2\xb7 "
"""Stands below an answer, behind "stopped" where it was."""


def stop(terminal: int, prompt: str, until: bytes, wait_s: float) -> float | None:
    """Seconds from Esc to "stopped"; None where the answer ended by itself."""
    paste = len(prompt) > 100
    os.write(terminal, b"\x1b[200~" * paste + prompt.encode() + b"\x1b[201~" * paste)
    drain(terminal, 0.3)
    os.write(terminal, b"\r")
    seen = read_until(terminal, (until, ENDED), 60) + drain(terminal, wait_s)
    if ENDED in seen:
        return None
    began = time.perf_counter()
    os.write(terminal, b"\x1b")
    seen = read_until(terminal, (b"stopped", ENDED), 5)
    took = time.perf_counter() - began
    drain(terminal, 0.3)
    return took if b"stopped" in seen else None


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    with tempfile.TemporaryDirectory() as folder:
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ |= {"PHICHAT_HOME": folder, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
            os.execv(sys.executable, [sys.executable, "-m", "phichat", "chat"])
        ioctl(terminal, TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        try:
            read_until(terminal, (b"CPU",), 60)
            drain(terminal, 0.5)
            for name, prompt, until in (
                ("writing", "Tell a very long story.", b"writing"),
                ("reading", LONG, b"reading"),
            ):
                took: list[float] = []
                while len(took) < times:
                    os.write(terminal, b"/new\r")
                    drain(terminal, 0.3)
                    one = stop(terminal, prompt, until, 0.2 + len(took) % 7 / 20)
                    took += [one] if one is not None else []
                took.sort()
                sys.stdout.write(
                    f"{name}: median {took[len(took) // 2] * 1000:.0f} ms, "
                    f"p99 {took[int(len(took) * 0.99)] * 1000:.0f} ms ({times} times)\n"
                )
                sys.stdout.flush()
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
