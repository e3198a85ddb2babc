"""The header of a model that is not here, read by ranges and kept nowhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from phichat.errors import DownloadError, ModelFileError, ModelNotInstalled
from phichat.gguf_header import GgufHeader, read_header_from
from phichat.models.hub import Hub
from phichat.models.registry import ModelSpec
from phichat.models.source import TRY_AGAIN, Interrupted, Source
from phichat.models.spec import PathSpec, parse
from phichat.models.target import find, find_url
from phichat.paths import Paths

_ATTEMPTS = 4
_MOST = 64 << 20
"""Bytes of one file that are read for its header."""


def read_remote_header(text: str, registry: Mapping[str, ModelSpec], hub: Hub, paths: Paths) -> GgufHeader:
    """The header of what a SPEC names, of a split model with the tensors of all parts.

    Raises UsageError, ModelNotInstalled, ModelChoiceError, ModelFileError, HubError and DownloadError.
    """
    match parse(text, hub.endpoint):
        case PathSpec(path):
            raise ModelNotInstalled(f"There is no file {path}", "check the path")
        case wanted:
            pass
    from phichat.models.spec import UrlSpec

    if isinstance(wanted, UrlSpec):
        target = find_url(wanted, hub, paths, sha256="", is_insecure=False)
    else:
        target = find(wanted, registry, hub, paths)
    headers = [_read(item.source) for item in target.items]
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    return replace(headers[0], tensors=tensors, file_size=target.size)


def _read(source: Source) -> GgufHeader:
    taken = 0

    def read(offset: int, length: int) -> bytes:
        nonlocal taken
        taken += length
        if taken > _MOST:
            raise ModelFileError(f"{source.name} has an unreasonably long header", "choose another file")
        return _range(source, offset, length)

    return read_header_from(read, source.size, source.name)


def _range(source: Source, offset: int, length: int) -> bytes:
    why = ""
    for attempt in range(_ATTEMPTS):
        content = bytearray()
        try:
            for at, piece in source.read(offset, offset + length):
                content += piece[max(0, offset - at) :]
                if len(content) >= length:
                    return bytes(content[:length])
        except Interrupted as stopped:
            why = stopped.why
        time.sleep(0.3 * 2**attempt)
    raise DownloadError(f"The header of {source.name} cannot be read: {why or 'it ends early'}", TRY_AGAIN)
