"""Plans of downloads: from a reference to the files on the hub or on a plain server, and to their header."""

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from phichat.errors import DownloadError, HashMismatch, HubError, ModelFileError, UsageError
from phichat.gguf.header import GgufHeader, merge_headers, read_header_from
from phichat.models.download.destination import Destination, hub_destination, url_destination
from phichat.models.download.file_selection import DEFAULT_QUANTIZATION, HubFile, select_files
from phichat.models.download.hub_client import HubClient, RepositoryListing
from phichat.models.download.remote_file import RemoteFile
from phichat.models.hub_layout import repository_folder
from phichat.models.registry import ModelSpec, find_spec, missing_file_error, unknown_model_error
from phichat.models.spec import PathSpec, RegistryName, RepoSpec, UrlSpec, is_safe_path, parse_reference
from phichat.paths import Paths

_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAX_HEADER_BYTES = 64 << 20
"""Bytes of one file that are read for its header."""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file to download. sha256: "" if none is known. identity: see ResumeJournal."""

    destination: Destination
    remote_file: RemoteFile
    identity: str
    sha256: str
    git_oid: str = ""


@dataclass(frozen=True, slots=True)
class DownloadPlan:
    """One model to download. files: of a split model the parts in order.

    origin: the repository or the URL. quantization: what the header must state, "" if the name is clear.
    revision: the branch or tag that the commit was found by, "" for a pinned commit.
    """

    name: str
    origin: str
    files: tuple[PlannedFile, ...]
    licence: str = ""
    is_gated: bool = False
    commit: str = ""
    revision: str = ""
    quantization: str = ""
    notices: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(item.remote_file.size for item in self.files)

    @property
    def has_expected_hashes(self) -> bool:
        """True if the hash of every file is known."""
        return all(item.sha256 or item.git_oid for item in self.files)

    def write_ref(self, paths: Paths) -> None:
        """Record the commit of the revision in the hub's cache, for programs that are offline. Raises OSError."""
        path = repository_folder(paths.models, self.origin) / "refs" / (self.revision or "main")
        if self.commit and (self.revision or not path.exists()):
            # The cache may be shared by several users: its files are not private.
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            part.write_text(self.commit)
            part.replace(path)


def plan_hub_download(
    reference: RegistryName | RepoSpec, registry: Mapping[str, ModelSpec], hub: HubClient, paths: Paths
) -> DownloadPlan:
    """Ask the hub for the files of a model. Raises HubError, AmbiguousModelError, ModelNotInstalled, HashMismatch."""
    entry = None
    if isinstance(reference, RegistryName):
        entry, quantization = find_spec(registry, reference.name), reference.quantization
        if entry is None:
            raise unknown_model_error(reference.name, registry)
        if quantization and quantization.upper() != entry.quantization.upper():
            reference, entry = RepoSpec(entry.repository, quantization), None
        else:
            reference = RepoSpec(entry.repository, file=entry.file, revision=entry.revision)
    repository = reference.repository
    listing = hub.fetch_listing(repository, reference.revision)
    selection = select_files(listing.files, repository, quantization=reference.quantization, file=reference.file)
    first, notices = selection.parts[0], []
    if entry is not None and entry.sha256 and first.sha256 and entry.sha256 != first.sha256:
        if entry.revision:
            next_step = f"If you trust it, pull {entry.repository}/{entry.file} explicitly"
            raise HashMismatch(f"{entry.name} on the hub differs from the file that phichat knows", next_step)
        notices.append(f"{entry.repository} replaced {entry.file} since this version of phichat was released.")
    if not reference.quantization and not reference.file and selection.quantization.upper() != DEFAULT_QUANTIZATION:
        notices.append(f"{repository} has no {DEFAULT_QUANTIZATION}, only {first.path}.")
    files = tuple(_plan_hub_file(hub, listing, file, paths) for file in selection.parts)
    return DownloadPlan(
        entry.name if entry else repository,
        repository,
        files,
        listing.licence or (entry.licence if entry else ""),
        listing.is_gated,
        listing.commit,
        "" if _COMMIT.fullmatch(reference.revision) else reference.revision or "main",
        selection.quantization if selection.needs_check else "",
        tuple(notices),
    )


def _plan_hub_file(hub: HubClient, listing: RepositoryListing, file: HubFile, paths: Paths) -> PlannedFile:
    if not is_safe_path(file.path) or not _COMMIT.fullmatch(listing.commit):
        raise HubError(f"{listing.repository} has a file with an unsafe path", "Choose another repository")
    if not (file.sha256 or file.git_oid) or file.size <= 0:
        raise DownloadError(f"The hub gives no checksum for {file.path}", "Choose another repository")
    destination = hub_destination(paths, listing.repository, listing.commit, file)
    identity = file.sha256 or file.git_oid
    return PlannedFile(destination, hub.open_file(listing, file), identity, file.sha256, file.git_oid)


def plan_url_download(
    reference: UrlSpec, hub: HubClient, paths: Paths, *, sha256: str = "", allow_http: bool = False
) -> DownloadPlan:
    """Ask a plain server for a file. Raises UsageError, DownloadError and AccessDenied."""
    parts = urlsplit(reference.url)
    if parts.scheme.lower() == "http" and not allow_http and not _is_loopback(parts.hostname or ""):
        raise UsageError(f"{reference.url} is not encrypted", "Use https, or allow http with --insecure")
    destination, remote_file = url_destination(paths, reference.url), hub.open_url(reference.url)
    remote_file.fetch_metadata()
    file = PlannedFile(destination, remote_file, f"{reference.url} {remote_file.validator}", sha256)
    notice = "No SHA-256 was given for this URL, so it is trusted this once; use --sha256 to check it."
    return DownloadPlan(destination.path.name, reference.url, (file,), notices=() if sha256 else (notice,))


def read_remote_header(text: str, registry: Mapping[str, ModelSpec], hub: HubClient, paths: Paths) -> GgufHeader:
    """Return the header of the model that a reference names, read by ranges; nothing is stored.

    Raises UsageError, ModelNotInstalled, AmbiguousModelError, ModelFileError, HubError and DownloadError.
    """
    match parse_reference(text, hub.endpoint):
        case PathSpec(path):
            raise missing_file_error(path)
        case UrlSpec() as spec:
            plan = plan_url_download(spec, hub, paths)
        case spec:
            plan = plan_hub_download(spec, registry, hub, paths)
    return merge_headers([_read_file_header(item.remote_file) for item in plan.files])


def _read_file_header(remote_file: RemoteFile) -> GgufHeader:
    bytes_read = 0

    def read_range(offset: int, length: int) -> bytes:
        nonlocal bytes_read
        bytes_read += length
        if bytes_read > _MAX_HEADER_BYTES:
            raise ModelFileError(f"{remote_file.name} has an unreasonably long header", "Choose another file")
        return remote_file.read_range(offset, length)

    return read_header_from(read_range, remote_file.size, remote_file.name)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
