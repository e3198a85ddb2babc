"""Entry point of the engine process: `python -m phichat.engine.worker HANDLE... [--daemon-socket STEM [LISTENER]]`.

A HANDLE is the inherited end of a connection (see `phichat.engine.ipc.process`), the supervisor's first. With
`--daemon-socket` the process can go on as a daemon: STEM is the path of its files without their endings, LISTENER
the inherited file descriptor of a socket that listens.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Sequence
from multiprocessing import connection
from pathlib import Path

from phichat.engine.ipc import protocol
from phichat.engine.worker.server import EngineServer


def main(arguments: Sequence[str]) -> None:
    """Serve the connections whose handles are given; with `--daemon-socket`, also later clients."""
    _prepare_process()
    separator = arguments.index("--daemon-socket") if "--daemon-socket" in arguments else len(arguments)
    server = EngineServer()
    if daemon_arguments := arguments[separator + 1 :]:
        from phichat.engine.daemon.registry import DaemonAddress
        from phichat.engine.worker.daemon_server import DaemonServer

        stem, *listeners = daemon_arguments
        server.daemon = DaemonServer(server.clients, server.shut_down, DaemonAddress(Path(stem)), *map(int, listeners))
    for index, handle in enumerate(arguments[:separator]):
        server.clients.add(open_connection(int(handle)), buffered=index > 0)
    server.run()


def _prepare_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor says when to stop
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # When memory runs out the system should take this process, not the one that holds the conversation.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")


def open_connection(handle: int) -> protocol.Connection:
    """Return the connection of an inherited handle."""
    if sys.platform == "win32":
        return connection.PipeConnection(handle)
    return connection.Connection(handle)


if __name__ == "__main__":
    main(sys.argv[1:])
