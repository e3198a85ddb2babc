"""First paint of the full-screen chat against a bare Textual app with a Markdown and a TextArea, in a real
pseudo-terminal, interleaved. Prints both medians and their ratio.

    python benchmarks/first_paint.py [ROUNDS]
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
from fcntl import ioctl
from pathlib import Path
from statistics import median
from termios import TIOCSWINSZ

BARE = """
from textual.app import App
from textual.widgets import Markdown, TextArea
class Bare(App):
    def compose(self):
        yield Markdown("# Ready to be seen")
        yield TextArea()
Bare().run()
"""


def first_paint(arguments: list[str], word: bytes, home: Path) -> float:
    """Seconds until `word` was drawn."""
    began = time.perf_counter()
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"PHICHAT_HOME": str(home), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        os.execv(sys.executable, [sys.executable, *arguments])
    ioctl(terminal, TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    seen = b""
    try:
        while word not in seen:
            ready, _, _ = select.select([terminal], [], [], 20)
            if not ready:
                raise SystemExit(f"nothing was painted: {seen[-500:]!r}")
            seen += os.read(terminal, 1 << 16)
        return time.perf_counter() - began
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        bare, ours = [], []
        for _ in range(rounds + 1):
            bare.append(first_paint(["-c", BARE], b"Ready to be seen", home))
            ours.append(first_paint(["-m", "phichat", "chat"], b"Nothing leaves it", home))
        bare, ours = bare[1:], ours[1:]
    sys.stdout.write(
        f"bare {median(bare) * 1000:.0f} ms, phichat {median(ours) * 1000:.0f} ms, "
        f"ratio {median(ours) / median(bare):.2f} (median of {rounds}, interleaved)\n"
    )


if __name__ == "__main__":
    main()
