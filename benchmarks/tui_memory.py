"""Memory of the full-screen chat over many turns, in a real pseudo-terminal on a scripted model, all kept in a
transcript. Prints what it holds after 200 turns and at the end, and what of the difference is not text.

    python benchmarks/tui_memory.py [TURNS]
"""

from __future__ import annotations

import os
import pty
import signal
import struct
import sys
import tempfile
from collections.abc import Iterator, Sequence
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

from key_echo import drain, read_until
from scripted_chat import ANSWER

from phichat.cancel import CancelToken
from phichat.config.settings import Config
from phichat.engine.backend import GenerationEvent
from phichat.engine.scripted_backend import ScriptedBackend, ScriptedReply
from phichat.paths import Paths
from phichat.services.app_context import AppContext
from phichat.services.chat_service import ChatService
from phichat.tui.app import PhichatApp
from phichat.types import Message, SamplingParams

FIRST = 200
COPIES = 2
"""Of an answer's text: one in the conversation, one on the screen's side. SQLite keeps a page cache of its own."""


class Forgetful(ScriptedBackend):
    """Remembers nothing of what it was asked."""

    def generate(
        self, messages: Sequence[Message], params: SamplingParams, cancel: CancelToken, conversation_id: str = ""
    ) -> Iterator[GenerationEvent]:
        self.prompts.clear()
        return super().generate(messages, params, cancel, conversation_id)


def desk(folder: Path) -> ChatService:
    backend = Forgetful([ScriptedReply([piece + " " for piece in ANSWER.split(" ")])], 4096)
    return ChatService(AppContext(Config(), Paths(folder, folder, folder, folder)), lambda model: backend)


def resident(pid: int) -> int:
    """Kilobytes."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])


def main() -> None:
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as folder:
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
            os.execv(sys.executable, [sys.executable, __file__, "--chat", folder])
        ioctl(terminal, TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        held: dict[int, int] = {}
        try:
            read_until(terminal, (b"scripted",), 20)
            drain(terminal, 0.5)
            for turn in range(1, turns + 1):
                os.write(terminal, b"go %d\r" % turn)
                read_until(terminal, (b" tokens ",), 20)
                drain(terminal, 0.05)
                if turn % 100 == 0:
                    drain(terminal, 0.5)
                    held[turn] = resident(pid)
                    sys.stdout.write(f"{turn:,} turns: {held[turn]:,} kB\n")
                    sys.stdout.flush()
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        kept = desk(Path(folder)).transcripts.list_entries("")[0].details
    sys.stdout.write(f"kept: {kept}\n")
    grown = held[turns] - held[FIRST]
    text = (turns - FIRST) * len(ANSWER) * COPIES // 1024
    sys.stdout.write(f"{grown:,} kB more than after {FIRST} turns, of which text {text:,} kB\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--chat"]:
        PhichatApp(desk(Path(sys.argv[2]))).run()
    else:
        main()
