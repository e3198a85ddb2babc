"""`phichat serve` in a thread of this process, with a backend that says what it was told to."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from phichat.config.settings import Config
from phichat.engine.backend import Backend
from phichat.paths import Paths
from phichat.server.access import access_policy
from phichat.server.app import RecorderFactory, ServerContext, create_app
from phichat.server.dispatch import BackendPool, Dispatcher
from phichat.server.model_provider import ModelProvider
from phichat.server.uvicorn_server import PhichatServer, bind_socket
from phichat.services.app_context import AppContext
from support.tiny_gguf import write_tiny_llama

HELLO: Mapping[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}


@dataclass
class Served:
    """port: where. told: what was said to whoever runs it."""

    port: int
    told: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=120)

    def exchange(self, request: bytes) -> bytes:
        """What comes back for these bytes until the server closes or says no more for a while."""
        with self.connect() as connection:
            connection.sendall(request)
            return read_all(connection)

    def post(self, document: object, **headers: str) -> tuple[int, dict[str, str], Any]:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self.ask("POST", "/v1/chat/completions", body, **headers)

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], Any]:
        return self.ask("GET", path, b"", **headers)

    def ask(self, method: str, path: str, body: bytes, **headers: str) -> tuple[int, dict[str, str], Any]:
        """Status, headers with names in lower case, and the document."""
        sent = {"Host": f"127.0.0.1:{self.port}", "Content-Length": str(len(body)), "Connection": "close"}
        sent.update({name.replace("_", "-"): value for name, value in headers.items()})
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        answer = self.exchange(head.encode("latin-1") + b"\r\n" + body)
        top, _, content = answer.partition(b"\r\n\r\n")
        first, *lines = top.decode("latin-1").split("\r\n")
        got = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return int(first.split()[1]), got, json.loads(content) if content else None


def request(port: int, document: object) -> bytes:
    body = json.dumps(document).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def read_all(connection: socket.socket) -> bytes:
    got = b""
    while piece := connection.recv(65536):
        got += piece
    return got


def read_until(connection: socket.socket, mark: bytes) -> bytes:
    got = bytearray()
    while mark not in got[-70_000:]:
        piece = connection.recv(65_536)
        assert piece, got
        got += piece
    return bytes(got)


def wait_until(is_so: Callable[[], bool], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


@contextmanager
def serving(
    folder: Path,
    backend_for: Callable[[Config, Paths], Backend],
    *,
    at_once: int = 1,
    waiting: int = 32,
    patience_s: float = 60.0,
    key: str = "",
    also: tuple[str, ...] = (),
    limits: Mapping[str, float] = MappingProxyType({}),
    kept: Callable[[Paths], RecorderFactory] | None = None,
    config: Config | None = None,
) -> Iterator[Served]:
    """The model is called `tiny`, and a file `tiny.gguf` in the folder."""
    paths = Paths(folder / "config", folder / "data", folder / "cache", folder / "hub")
    folder.mkdir(exist_ok=True, parents=True)
    model = write_tiny_llama(folder / "tiny.gguf")
    models = ModelProvider(
        AppContext(replace(config or Config(), model=str(model)), paths),
        lambda context: backend_for(context.config, context.paths),
    )
    pool = BackendPool(models.create_backend)
    dispatcher = Dispatcher(pool, max_concurrent=at_once, max_waiting=waiting, queue_timeout_s=patience_s)
    listener = bind_socket("127.0.0.1", 0, has_key=bool(key))
    served = Served(listener.getsockname()[1])
    context = ServerContext(models, dispatcher, served.told.append, kept(paths) if kept else None, **limits)
    policy = access_policy("127.0.0.1", listener.getsockname(), also, key)
    server = PhichatServer(create_app(context, policy), dispatcher, served.told.append, debug=False)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.should_exit = True
        thread.join(20)
        pool.release_idle()
        assert not thread.is_alive()
