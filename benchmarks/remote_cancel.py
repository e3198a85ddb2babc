"""Time from Ctrl-C to the end of a `phichat ask` of a server, and until the server sees the disconnect.

    python benchmarks/remote_cancel.py [-r REPEATS]

Against servers that hang: while the connection is made, in the handshake of TLS, before the first byte, in the
middle of the answer, and in an answer that comes as fast as it can. Both times are counted from the signal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from common import default_interrupts, environment, limit, phichat, say, table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.fake_openai_server import chunk

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
PIECE = b"data: " + json.dumps(chunk(content="word ")).encode() + b"\n\n"
PHASES = ("connecting", "handshake", "before the first byte", "in the stream", "in a fast stream")


class Hanging:
    """A server that gets as far as `phase` and no further. reached: it is there. left_at: when the client left."""

    def __init__(self, phase: str) -> None:
        self._phase = phase
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.reached = threading.Event()
        self.left = threading.Event()
        self.left_at = 0.0
        self._fillers: list[socket.socket] = []
        if phase == "connecting":
            self._listener.listen(0)
            for _ in range(3):  # the queue is full then, and nobody empties it
                filler = socket.socket()
                filler.settimeout(0)
                filler.connect_ex(("127.0.0.1", self.port))
                self._fillers.append(filler)
        else:
            self._listener.listen(8)
            threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """End it."""
        for one in (*self._fillers, self._listener):
            one.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._answer(client)

    def _answer(self, client: socket.socket) -> None:
        begun = client.recv(65536)
        if begun.startswith(b"GET"):
            return client.close()
        if self._phase != "handshake":
            while b"[DONE]" not in begun and b'"stream"' not in begun:
                begun += client.recv(65536)
        with contextlib.suppress(OSError):
            if "stream" in self._phase:
                client.sendall(HEAD + PIECE * 3)
            self.reached.set()
            client.settimeout(0)
            while self._phase == "in a fast stream" and not select.select([client], [client], [])[0]:
                client.send(PIECE * 100)
            client.settimeout(None)
            while select.select([client], [], []) and client.recv(65536):
                pass
        self.left_at = time.monotonic()
        self.left.set()


@contextlib.contextmanager
def hanging(phase: str) -> Iterator[Hanging]:
    server = Hanging(phase)
    try:
        yield server
    finally:
        server.close()


def cancel(phase: str) -> tuple[float, float, str]:
    """Milliseconds until the process has ended and until the server sees it, and what was not as it should be."""
    with hanging(phase) as server, tempfile.TemporaryDirectory() as folder:
        env = environment(Path(folder))
        config = subprocess.run(phichat("path", "config"), env=env, capture_output=True, text=True, check=True)
        scheme = "https" if phase == "handshake" else "http"
        # With an api_version the models are not asked for, so that the answer is the first thing that hangs.
        settings = f'base_url = "{scheme}://127.0.0.1:{server.port}/v1"\nmodel = "tiny"\napi_version = "1"\n'
        Path(config.stdout.strip(), "config.toml").parent.mkdir(parents=True, exist_ok=True)
        Path(config.stdout.strip(), "config.toml").write_text(f"[endpoints.lab]\n{settings}")
        asking = subprocess.Popen(
            phichat("ask", "-m", "lab", "Hello?"),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=default_interrupts,
        )
        assert asking.stdout
        assert asking.stderr
        stdout, said = asking.stdout, bytearray()
        reader = threading.Thread(target=lambda: said.extend(stdout.read()), daemon=True)
        reader.start()
        server.reached.wait(2.0 if phase == "connecting" else 20.0)
        time.sleep(0.3)
        began = time.monotonic()
        asking.send_signal(signal.SIGINT)
        code = asking.wait(30)
        ended = time.monotonic()
        server.left.wait(0 if phase == "connecting" else 10.0)
        reader.join()
        wrong = "" if code == 130 else f"exit code {code}: {asking.stderr.read()!r}"
        if "stream" in phase and not said.startswith(b"word word word"):
            wrong += f" what was said is lost: {bytes(said[:80])!r}"
        return 1e3 * (ended - began), 1e3 * (server.left_at - began), wrong


def main() -> None:
    """Exit 1 when any took 500 ms or more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-r", "--repeats", type=int, default=5)
    given = parser.parse_args()
    rows, worst, wrong = [], 0.0, 0
    for phase in PHASES:
        each = [cancel(phase) for _ in range(given.repeats)]
        for _, _, what in each:
            wrong += bool(what)
            if what:
                say(f"  {phase}: {what}")
        ended, seen = [one[0] for one in each], [one[1] for one in each]
        worst = max(worst, *ended)
        told = ["-", "-"] if phase == "connecting" else [statistics.median(seen), max(seen)]
        rows.append([phase, statistics.median(ended), max(ended), *told])
    table(["cancelled", "process ends, ms", "worst", "server sees it, ms", "worst"], rows)
    limit("worst", worst, 500, "ms")
    raise SystemExit(worst >= 500 or wrong > 0)


if __name__ == "__main__":
    main()
