"""From Esc to "stopped" on the screen, in a real pseudo-terminal on the embedded model: while it writes, and
while it reads a prompt of about 3,000 tokens.

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

from echo import drain, read_until

LONG = "the quick brown fox jumps over the lazy dog " * 330


def stop(terminal: int, prompt: str, until: bytes, wait_s: float) -> float:
    """Seconds from Esc to "stopped"."""
    paste = len(prompt) > 100
    os.write(terminal, b"\x1b[200~" * paste + prompt.encode() + b"\x1b[201~" * paste)
    drain(terminal, 0.3)
    os.write(terminal, b"\r")
    read_until(terminal, until, 60)
    drain(terminal, wait_s)
    began = time.perf_counter()
    os.write(terminal, b"\x1b")
    read_until(terminal, b"stopped", 5)
    took = time.perf_counter() - began
    drain(terminal, 0.3)
    return took


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    with tempfile.TemporaryDirectory() as folder:
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ |= {"PHICHAT_HOME": folder, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
            os.execv(sys.executable, [sys.executable, "-m", "phichat", "chat"])
        ioctl(terminal, TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        try:
            read_until(terminal, b"CPU", 60)
            drain(terminal, 0.5)
            for name, prompt, until in (
                ("writing", "Tell a very long story.", b"writing"),
                ("reading", LONG, b"reading"),
            ):
                took = []
                for number in range(times):
                    os.write(terminal, b"/new\r")
                    drain(terminal, 0.3)
                    took.append(stop(terminal, prompt, until, 0.2 + number % 7 / 20))
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
