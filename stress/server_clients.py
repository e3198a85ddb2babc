"""Twenty clients of `phichat serve` at once, of whom five disconnect, many times: nothing may leak or stall.

    python stress/server_clients.py [-r ROUNDS]

Prints what the server holds after each round, and how soon it is free again for others when a client has left.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

sys.path.insert(1, str(Path(__file__).parents[1] / "benchmarks"))

import psutil
from common import engines_of, limit, phichat, phichat_home, say, spread, table

CLIENTS, LEAVING = 20, 5


@contextlib.contextmanager
def served(*arguments: str) -> Iterator[tuple[int, psutil.Process, str]]:
    """Its port, its process and its home."""
    with phichat_home() as env:
        server = subprocess.Popen(phichat("serve", "--port", 0, *arguments), env=env, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            while "Listening on " not in (line := server.stderr.readline()):
                assert line
            Thread(target=server.stderr.read, daemon=True).start()
            yield (
                int(line.split("//")[1].split("/")[0].rsplit(":", 1)[1]),
                psutil.Process(server.pid),
                env["PHICHAT_HOME"],
            )
        finally:
            server.terminate()
            server.wait(20)
            subprocess.run(phichat("stop"), env=env, stdout=subprocess.DEVNULL, check=False)


def asked(port: int, prompt: str, **fields: Any) -> socket.socket:
    """A connection with a request on its way."""
    body = json.dumps({"messages": [{"role": "user", "content": prompt}], **fields}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: {len(body)}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", port), timeout=120)
    connection.sendall(head.encode() + body)
    return connection


def answer(connection: socket.socket, *, streams: bool) -> None:
    """All of it."""
    got = b""
    while (b"[DONE]" if streams else b'"total_tokens"') not in got:
        piece = connection.recv(65_536)
        if not piece:
            raise SystemExit(f"an answer broke off: {got[-200:]!r}")
        got += piece


def crowd(port: int) -> float:
    """Seconds until everybody who stayed has an answer."""
    whole: list[int] = []

    def client(number: int) -> None:
        with asked(port, f"Say {number}.", stream=number % 2 == 0, max_tokens=8) as connection:
            if number % (CLIENTS // LEAVING) == 0:
                time.sleep(random.random() / 2)
                return
            answer(connection, streams=number % 2 == 0)
            whole.append(number)

    began = time.monotonic()
    clients = [Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    if len(whole) != CLIENTS - LEAVING:
        raise SystemExit(f"{len(whole)} answers instead of {CLIENTS - LEAVING}")
    return time.monotonic() - began


def left(port: int, prompt: str, after_s: float) -> float:
    """Milliseconds that a small request takes right after another client has left."""
    with asked(port, prompt, stream=True):
        time.sleep(after_s)
    began = time.monotonic()
    with asked(port, "Hi", max_tokens=1) as connection:
        answer(connection, streams=False)
    return 1e3 * (time.monotonic() - began)


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-r", "--rounds", type=int, default=8)
    rounds = parser.parse_args().rounds
    rows = []
    with served() as (port, server, home):
        left(port, "Hi", 1.0)
        for number in range(rounds):
            took = crowd(port)
            time.sleep(0.5)
            if sys.platform == "win32":
                files = server.num_handles()
            else:
                files = server.num_fds()
            memory = server.memory_info().rss / 1e6
            rows.append((number, took, files, server.num_threads(), memory, len(engines_of(home))))
        table(("round", "seconds", "files", "threads", "MB", "engines"), rows)
        usual = [left(port, "Hi", 0.5) for _ in range(5)]
        writing = [left(port, "Count to a thousand in words.", 1.0) for _ in range(5)]
        reading = [left(port, f"{at} " + "word " * 7000, 1.0) for at in range(5)]
    say(f"a small request alone: {spread(usual)} ms")
    alone = statistics.median(usual)
    for what, times in (("an answer was being written", writing), ("a prompt was being read", reading)):
        limit(f"later where {what}", max(times) - alone, 500, "ms")
    # asyncio keeps up to four threads more than there are cores, and makes them as they are needed.
    middle = rows[len(rows) // 2]
    is_flat = rows[-1][2] <= middle[2] and rows[-1][3] <= middle[3]
    say(f"files and threads in the second half: {'no more' if is_flat else 'MORE'}")
    raise SystemExit(not is_flat or max(*writing, *reading) - alone > 500)


if __name__ == "__main__":
    main()
