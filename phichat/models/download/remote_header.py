"""The header of a model that is not here, read by ranges and kept nowhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from phichat.errors import DownloadError, ModelFileError, ModelNotInstalled
from phichat.gguf.header import GgufHeader, read_header_from
from phichat.models.download.hub_client import HubClient
from phichat.models.download.plan import plan_hub_download, plan_url_download
from phichat.models.download.remote_file import TRY_AGAIN, RemoteFile, TransferInterrupted
from phichat.models.registry import ModelSpec
from phichat.models.spec import PathSpec, UrlSpec, parse_reference
from phichat.paths import Paths

_MAX_ATTEMPTS = 4
_MAX_HEADER_BYTES = 64 << 20
"""Bytes of one file that are read for its header."""


def read_remote_header(text: str, registry: Mapping[str, ModelSpec], hub: HubClient, paths: Paths) -> GgufHeader:
    """The header of what a SPEC names, of a split model with the tensors of all parts.

    Raises UsageError, ModelNotInstalled, ModelChoiceError, ModelFileError, HubError and DownloadError.
    """
    match parse_reference(text, hub.endpoint):
        case PathSpec(path):
            raise ModelNotInstalled(f"There is no file {path}", "Check the path")
        case UrlSpec() as spec:
            plan = plan_url_download(spec, hub, paths, sha256="", allow_http=False)
        case spec:
            plan = plan_hub_download(spec, registry, hub, paths)
    headers = [_read_file_header(item.remote_file) for item in plan.files]
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    return replace(headers[0], tensors=tensors, file_size=plan.size)


def _read_file_header(remote_file: RemoteFile) -> GgufHeader:
    bytes_read = 0

    def read_range(offset: int, length: int) -> bytes:
        nonlocal bytes_read
        bytes_read += length
        if bytes_read > _MAX_HEADER_BYTES:
            raise ModelFileError(f"{remote_file.name} has an unreasonably long header", "Choose another file")
        return _fetch_range(remote_file, offset, length)

    return read_header_from(read_range, remote_file.size, remote_file.name)


def _fetch_range(remote_file: RemoteFile, offset: int, length: int) -> bytes:
    reason = ""
    for attempt in range(_MAX_ATTEMPTS):
        content = bytearray()
        try:
            for position, chunk in remote_file.iter_range(offset, offset + length):
                content += chunk[max(0, offset - position) :]
                if len(content) >= length:
                    return bytes(content[:length])
        except TransferInterrupted as error:
            reason = error.reason
        time.sleep(0.3 * 2**attempt)
    raise DownloadError(f"The header of {remote_file.name} cannot be read: {reason or 'it ends early'}", TRY_AGAIN)
