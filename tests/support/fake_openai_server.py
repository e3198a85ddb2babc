"""A server that speaks the OpenAI HTTP API, and fails in every way that has been seen."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-never-to-be-seen-0123456789"


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {"id": "1", "object": "chat.completion.chunk", "model": "tiny", "choices": choices}


def usage(prompt: int, completion: int) -> dict[str, Any]:
    counted = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return {"id": "1", "object": "chat.completion.chunk", "model": "tiny", "choices": [], "usage": counted}


@dataclass(frozen=True)
class Answer:
    """One answer to a chat completion.

    pieces: documents, or bytes that are sent as they are. then: what happens behind them: done, close, reset, stall
    (until the server ends), drip (a byte now and then). status other than 200: body is the whole answer.
    """

    pieces: Sequence[dict[str, Any] | bytes] = ()
    then: str = "done"
    status: int = 200
    body: bytes | dict[str, Any] = b""
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = "text/event-stream"
    pause_s: float = 0.0


def saying(*words: str, **more: Any) -> Answer:
    return Answer(
        (chunk(role="assistant"), *(chunk(content=word) for word in words), chunk("stop"), usage(9, 3)), **more
    )


class EndpointServer(ThreadingHTTPServer):
    """url: what base_url takes. asked: the bodies. headers: of each request, names in lower case.

    models: what /v1/models lists; paths: what is at others. key: the only one that is taken, if any. answers: one a
    request, the last one again and again. left: set when a client has left a silent answer.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *answers: Answer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.answers = deque(answers)
        self.models: Any = [{"id": "tiny", "object": "model"}]
        self.paths: dict[str, Any] = {}
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.left = threading.Event()
        self.key = ""

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass

    def next(self) -> Answer:
        return self.answers.popleft() if len(self.answers) > 1 else self.answers[0]


@contextmanager
def serving(*answers: Answer) -> Iterator[EndpointServer]:
    server = EndpointServer(*(answers or (saying("Hello", ", ", "you."),)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: EndpointServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        path = self.path.partition("?")[0]
        if path.endswith("/models"):
            found = {"object": "list", "data": self.server.models} if self.server.models is not None else None
        else:
            found = self.server.paths.get(path)
        content = json.dumps(found or {"error": {"message": "not found"}}).encode()
        self._plain(200 if found else 404, content, {"Content-Type": "application/json"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        self.server.asked.append({"path": self.path, **asked})
        if self.server.key and self.headers.get("Authorization") != f"Bearer {self.server.key}":
            # As OpenAI does, with the key in it.
            wrong = {"error": {"message": f"Incorrect API key provided: {self.headers.get('Authorization')}"}}
            return self._plain(401, json.dumps(wrong).encode(), {"Content-Type": "application/json"})
        answer = self.server.next()
        if answer.then == "reset-before":
            return self._reset()
        if answer.then == "stall-before":
            return self._stall(b"")
        if answer.status != 200 or answer.body:
            is_json = isinstance(answer.body, dict)
            content = json.dumps(answer.body).encode() if isinstance(answer.body, dict) else answer.body
            kind = "application/json" if is_json else answer.kind
            return self._plain(answer.status, content, {"Content-Type": kind, **answer.headers})
        self.send_response(200)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            for piece in answer.pieces:
                self._send(piece if isinstance(piece, bytes) else b"data: " + json.dumps(piece).encode() + b"\n\n")
                time.sleep(answer.pause_s)
            if answer.then == "done":
                self._send(b"data: [DONE]\n\n")
            elif answer.then == "reset":
                self._reset()
            elif answer.then in ("stall", "drip"):
                self._stall(b"x" if answer.then == "drip" else b"")

    def _send(self, content: bytes) -> None:
        self.wfile.write(content)
        self.wfile.flush()

    def _plain(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(content)

    def _reset(self) -> None:
        time.sleep(0.05)  # what was sent before is to arrive
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _stall(self, drop: bytes) -> None:
        self.close_connection = True
        self.connection.settimeout(0.05)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                if not self.connection.recv(1):
                    break
            except TimeoutError:
                with suppress(OSError):
                    self.connection.sendall(drop)
            except OSError:
                break
        self.server.left.set()
