"""What the full-screen chat costs of the generation speed: the same seeded prompt on the embedded model in a
pseudo-terminal and with `phichat ask`, interleaved; both speeds as the engine measured them, from the transcript.

    python benchmarks/tui_cost.py [PAIRS [TOKENS]]
"""

from __future__ import annotations

import json
import os
import pty
import signal
import struct
import subprocess
import sys
import tempfile
from contextlib import suppress
from fcntl import ioctl
from statistics import median
from termios import TIOCSWINSZ

from common import limit, say, spread
from key_echo import drain, read_until
from tui_stop import ENDED

PROMPT = "Write a long story about a lighthouse, with a list of its keepers and a program that counts them."


def in_the_chat(options: list[str]) -> None:
    """One answer in the full-screen chat."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        os.execv(sys.executable, [sys.executable, "-m", "phichat", "chat", *options])
    ioctl(terminal, TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    try:
        read_until(terminal, (b"CPU", b"GPU"), 60)
        drain(terminal, 0.5)
        os.write(terminal, PROMPT.encode() + b"\r")
        read_until(terminal, (ENDED,), 120)
        drain(terminal, 0.3)
        os.write(terminal, b"\x11")
        with suppress(OSError):  # Linux's way to say that the chat has ended
            drain(terminal, 2)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def asked(options: list[str]) -> None:
    command = [sys.executable, "-m", "phichat", "ask", "--json", *options, PROMPT]
    subprocess.run(command, capture_output=True, check=True)


def last() -> tuple[str, float]:
    """What was answered last, and its tokens a second."""
    command = [sys.executable, "-m", "phichat", "export", "--last", "--format", "json"]
    written = subprocess.run(command, capture_output=True, check=True).stdout
    turn = json.loads(written)["conversations"][0]["turns"][-1]
    return turn["text"], turn["timings"]["tokens_per_second"]


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    tokens = sys.argv[2] if len(sys.argv) > 2 else "300"
    speeds: dict[str, list[float]] = {"ask": [], "chat": []}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PHICHAT_HOME"] = folder
        asked(["--max-tokens", "8"])
        for pair in range(pairs):
            options = ["--seed", str(pair), "--max-tokens", tokens]
            texts = []
            for how, run in (("ask", asked), ("chat", in_the_chat))[:: 1 if pair % 2 else -1]:
                run(options)
                text, speed = last()
                texts.append(text)
                speeds[how].append(speed)
            if texts[0] != texts[1]:
                say(f"seed {pair} gave two answers")
    for how, known in speeds.items():
        say(f"{how}: {spread(known)} tokens/s")
    ratios = [chat / ask for ask, chat in zip(speeds["ask"], speeds["chat"], strict=True)]
    limit(f"the chat costs (median of {pairs} pairs)", 100 * (1 - median(ratios)), 5, "%")


if __name__ == "__main__":
    main()
