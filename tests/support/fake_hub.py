"""A stand-in for the hub, and for plain servers, that fails in every way that has been seen.

Speaks what huggingface_hub asks for: model_info, the search, /resolve with its headers and its redirect to a signed
address that expires, ranges. A fault is taken from `faults` for each answer with content.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

_PIECE = 1 << 16
_SLOW_PIECE = 1 << 14
"""With a limit to the rate, what is on the way should be little."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer.

    kind: reset, close (early), stall, status, expired, flip (a byte), whole (200 for a range), wrong-range, html,
    no-length. after: bytes of the answer before it happens. retry_after: the header's value.
    """

    kind: str
    after: int = 0
    status: int = 503
    retry_after: str = ""


@dataclass
class Repository:
    """files: path -> content, or a Path of it."""

    files: dict[str, bytes | Path]
    gated: bool = False
    licence: str = "mit"
    commit: str = "c" * 40
    downloads: int = 10
    claimed: dict[str, str] = field(default_factory=dict)
    lfs: bool = True


class StandIn(ThreadingHTTPServer):
    """The server; `url` is its base. sent: bytes of file content handed to the network."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[str, Repository] = {}
        self.plain: dict[str, bytes | Path] = {}
        self.faults: deque[Fault | None] = deque()
        self.api_faults: deque[Fault] = deque()
        self.token = "hf_secret"
        self.etags: dict[str, str] = {}
        self.knows_ranges = True
        self.rate = 0.0
        """Bytes a second of one connection; 0 for no limit."""
        self.sent = 0
        self.asked: list[tuple[str, str]] = []
        self.authorized: list[str] = []
        self.lock = threading.Lock()
        self._hashes: dict[int | Path, tuple[str, str]] = {}

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass

    def sha256(self, content: bytes | Path) -> str:
        return self._digests(content)[0]

    def oid(self, content: bytes | Path) -> str:
        return self._digests(content)[1]

    def _digests(self, content: bytes | Path) -> tuple[str, str]:
        key = content if isinstance(content, Path) else id(content)
        if key not in self._hashes:
            whole, oid = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size_of(content))
            for piece in pieces(content, 0, size_of(content)):
                whole.update(piece)
                oid.update(piece)
            self._hashes[key] = whole.hexdigest(), oid.hexdigest()
        return self._hashes[key]


def size_of(content: bytes | Path) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


def pieces(content: bytes | Path, start: int, stop: int, length: int = _PIECE) -> Iterator[bytes]:
    if isinstance(content, Path):
        with content.open("rb") as file:
            file.seek(start)
            while start < stop and (piece := file.read(min(length, stop - start))):
                start += len(piece)
                yield piece
    else:
        for at in range(start, stop, length):
            yield content[at : min(at + length, stop)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StandIn
    wbufsize = 0

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        segments = [unquote(segment) for segment in parts.path.split("/") if segment]
        query = parse_qs(parts.query)
        with self.server.lock:
            self.server.asked.append((self.path, self.headers.get("Range", "")))
            if authorization := self.headers.get("Authorization"):
                self.server.authorized.append(self.path)
        self._token = (authorization or "").removeprefix("Bearer ")
        match segments:
            case ["api", "models"]:
                self._search(query)
            case ["api", "models", owner, name, *rest]:
                self._info(f"{owner}/{name}", rest[1] if rest else "main")
            case [owner, name, "resolve", revision, *path]:
                self._resolve(f"{owner}/{name}", revision, "/".join(path))
            case ["cdn", owner, name, *path]:
                if float(query.get("expires", ["0"])[0]) < time.time():
                    return self._status(403, {})
                self._content(self.server.repositories[f"{owner}/{name}"].files["/".join(path)])
            case ["files", name] if name in self.server.plain:
                self._content(self.server.plain[name], etag=self.server.etags.get(name, ""))
            case []:
                self._json([])
            case _:
                self._status(404, {})

    def _search(self, query: dict[str, list[str]]) -> None:
        words = query.get("search", [""])[0].lower().split()
        hits = [
            {"id": name, "modelId": name, "downloads": each.downloads, "likes": 1, "tags": ["gguf"]}
            for name, each in self.server.repositories.items()
            if all(word in name.lower() for word in words)
        ]
        self._json(sorted(hits, key=lambda hit: -int(str(hit["downloads"]))))

    def _info(self, name: str, revision: str) -> None:
        if self.server.api_faults:
            fault = self.server.api_faults.popleft()
            return self._status(fault.status, {"Retry-After": fault.retry_after} if fault.retry_after else {})
        repository = self.server.repositories.get(name)
        if repository is None:
            return self._status(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        if revision not in ("main", repository.commit):
            return self._status(404, {"X-Error-Code": "RevisionNotFound"})
        siblings = []
        for path, content in repository.files.items():
            entry: dict[str, Any] = {
                "rfilename": path,
                "size": size_of(content),
                "blobId": self.server.oid(content),
            }
            if repository.lfs:
                digest = repository.claimed.get(path) or self.server.sha256(content)
                entry["lfs"] = {"sha256": digest, "size": size_of(content), "pointerSize": 134}
            siblings.append(entry)
        self._json(
            {
                "id": name,
                "modelId": name,
                "sha": repository.commit,
                "gated": "auto" if repository.gated else False,
                "private": False,
                "tags": ["gguf", f"license:{repository.licence}"],
                "cardData": {"license": repository.licence},
                "siblings": siblings,
            }
        )

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repository = self.server.repositories.get(name)
        if repository is None:
            return self._status(404, {"X-Error-Code": "RepoNotFound"})
        if repository.gated and self._token != self.server.token:
            return self._status(403 if self._token else 401, {"X-Error-Code": "GatedRepo"})
        content = repository.files.get(path)
        if content is None:
            return self._status(404, {"X-Error-Code": "EntryNotFound"})
        digest = repository.claimed.get(path) or self.server.sha256(content)
        etag = digest if repository.lfs else self.server.oid(content)
        headers = {
            "X-Repo-Commit": repository.commit,
            "X-Linked-Size": str(size_of(content)),
            "X-Linked-Etag": f'"{etag}"',
            "Location": f"{self.server.url.replace('127.0.0.1', 'localhost')}/cdn/{name}/{quote(path)}"
            f"?expires={time.time() + 3600}&signature=secret",
        }
        self._status(302, headers)

    def _content(self, content: bytes | Path, etag: str = "") -> None:
        size = size_of(content)
        start, stop, is_range = 0, size, False
        wanted = self.headers.get("Range", "")
        fresh = self.headers.get("If-Range", etag) == etag
        if self.server.knows_ranges and wanted.startswith("bytes=") and fresh:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop, is_range = int(first), min(size, int(last) + 1 if last else size), True
            if start >= size:
                return self._status(416, {"Content-Range": f"bytes */{size}"})
        with self.server.lock:
            fault = self.server.faults.popleft() if self.server.faults and self.command == "GET" else None
        kind = fault.kind if fault else ""
        if fault and kind == "status":
            return self._status(fault.status, {"Retry-After": fault.retry_after} if fault.retry_after else {})
        if kind == "expired":
            return self._status(403, {})
        if kind == "html":
            return self._body(200, {"Content-Type": "text/html"}, b"<html>Sign in to this network</html>")
        if kind == "whole":
            start, stop, is_range = 0, size, False
        if kind == "wrong-range":
            start = max(0, start - 1000) if start else min(1000, stop - 1)
        headers = {"Accept-Ranges": "bytes", "ETag": etag} if etag else {"Accept-Ranges": "bytes"}
        if is_range:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        if kind == "no-length":
            headers["Connection"] = "close"
            self.close_connection = True
        else:
            headers["Content-Length"] = str(stop - start)
        self._head(206 if is_range else 200, headers)
        if self.command == "HEAD":
            return
        self._send(content, start, stop, fault)

    def _send(self, content: bytes | Path, start: int, stop: int, fault: Fault | None) -> None:
        sent, began = 0, time.monotonic()
        for piece in pieces(content, start, stop, _SLOW_PIECE if self.server.rate else _PIECE * 4):
            if fault and fault.kind in ("reset", "close", "stall", "no-length") and sent + len(piece) > fault.after:
                if fault.kind == "no-length" and not fault.after:
                    fault = None
                else:
                    self._write(piece[: max(0, fault.after - sent)])
                    return self._break_off(fault.kind)
            if fault and fault.kind == "flip" and sent <= fault.after < sent + len(piece):
                at = fault.after - sent
                piece = piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]
            self._write(piece)
            sent += len(piece)
            if self.server.rate:
                time.sleep(max(0.0, sent / self.server.rate - (time.monotonic() - began)))

    def _break_off(self, kind: str) -> None:
        if kind == "stall":
            time.sleep(60)
        if kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        if kind == "reset":
            self.connection.close()

    def _write(self, piece: bytes) -> None:
        self.wfile.write(piece)
        with self.server.lock:
            self.server.sent += len(piece)

    def _json(self, document: object) -> None:
        self._body(200, {"Content-Type": "application/json"}, json.dumps(document).encode())

    def _status(self, status: int, headers: dict[str, str]) -> None:
        self._body(status, headers, b"")

    def _body(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self._head(status, {**headers, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def http_date(seconds_from_now: float) -> str:
    """A Retry-After in its other form."""
    return formatdate(time.time() + seconds_from_now, usegmt=True)


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """A running server."""
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
