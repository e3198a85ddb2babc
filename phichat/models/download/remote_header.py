"""Headers of models that are not installed, read by ranges; nothing is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from phichat.errors import ModelFileError
from phichat.gguf.header import GgufHeader, read_header_from
from phichat.models.download.hub_client import HubClient
from phichat.models.download.plan import plan_hub_download, plan_url_download
from phichat.models.download.remote_file import RemoteFile
from phichat.models.registry import ModelSpec, missing_file_error
from phichat.models.spec import PathSpec, UrlSpec, parse_reference
from phichat.paths import Paths

_MAX_HEADER_BYTES = 64 << 20
"""Bytes of one file that are read for its header."""


def read_remote_header(text: str, registry: Mapping[str, ModelSpec], hub: HubClient, paths: Paths) -> GgufHeader:
    """Return the header of the model that a reference names.

    Raises UsageError, ModelNotInstalled, AmbiguousModelError, ModelFileError, HubError and DownloadError.
    """
    match parse_reference(text, hub.endpoint):
        case PathSpec(path):
            raise missing_file_error(path)
        case UrlSpec() as spec:
            plan = plan_url_download(spec, hub, paths, sha256="", allow_http=False)
        case spec:
            plan = plan_hub_download(spec, registry, hub, paths)
    return merge_headers([_read_file_header(item.remote_file) for item in plan.files])


def merge_headers(headers: Sequence[GgufHeader]) -> GgufHeader:
    """Return the header of a split model: the first one with the tensors and the size of all parts."""
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    return replace(headers[0], tensors=tensors, file_size=sum(header.file_size for header in headers))


def _read_file_header(remote_file: RemoteFile) -> GgufHeader:
    bytes_read = 0

    def read_range(offset: int, length: int) -> bytes:
        nonlocal bytes_read
        bytes_read += length
        if bytes_read > _MAX_HEADER_BYTES:
            raise ModelFileError(f"{remote_file.name} has an unreasonably long header", "Choose another file")
        return remote_file.read_range(offset, length)

    return read_header_from(read_range, remote_file.size, remote_file.name)
