"""From a SPEC to the files that are to be downloaded."""

from __future__ import annotations

import difflib
import ipaddress
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from phichat.errors import DownloadError, HashMismatch, HubError, ModelNotInstalled, UsageError
from phichat.models.download.destination import Destination, hub_destination, url_destination, write_ref
from phichat.models.download.file_selection import DEFAULT_QUANTIZATION, HubFile, select_files
from phichat.models.download.hub_client import HubClient, RepositoryListing
from phichat.models.download.remote_file import RemoteFile, TransferInterrupted
from phichat.models.registry import ModelSpec
from phichat.models.spec import RegistryName, RepoSpec, UrlSpec, is_safe_path
from phichat.paths import Paths

_MAX_SUGGESTIONS = 3
_MAX_RETRY_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file to download. sha256 is "" where nobody has promised one."""

    destination: Destination
    remote_file: RemoteFile
    identity: str
    sha256: str
    git_oid: str = ""


@dataclass(frozen=True, slots=True)
class DownloadPlan:
    """One model to download; of a split model the parts in order.

    origin: the repository or the address. quantization: what the header has to say, "" where the name is clear.
    revision: the branch or tag that commit was found by, "" for a pinned one. size in bytes.
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
        return sum(item.remote_file.size for item in self.files)

    @property
    def has_expected_hashes(self) -> bool:
        """Whether somebody has said what every file has to be."""
        return all(item.sha256 or item.git_oid for item in self.files)

    def write_ref(self, paths: Paths) -> None:
        """Let other tools find the commit offline. Raises OSError."""
        if self.commit:
            write_ref(paths, self.origin, self.revision or "main", self.commit, overwrite=bool(self.revision))


def find_registry_entry(reference: RegistryName, registry: Mapping[str, ModelSpec]) -> ModelSpec:
    """The entry of that name or alias. Raises ModelNotInstalled, naming the three nearest."""
    for spec in registry.values():
        if spec.matches_name(reference.name):
            return spec
    suggestions = suggest_names(reference.name, registry)
    raise ModelNotInstalled(
        f"There is no model called {reference.name!r}", f"The nearest are {', '.join(suggestions)}, or give owner/repo"
    )


def suggest_names(name: str, registry: Mapping[str, ModelSpec]) -> list[str]:
    """The three names of the registry that are most like it."""
    return difflib.get_close_matches(name.lower(), registry, _MAX_SUGGESTIONS, 0.0)


def plan_hub_download(
    reference: RegistryName | RepoSpec, registry: Mapping[str, ModelSpec], hub: HubClient, paths: Paths
) -> DownloadPlan:
    """Ask the hub what is meant. Raises HubError, ModelChoiceError, ModelNotInstalled and HashMismatch."""
    entry: ModelSpec | None = None
    if isinstance(reference, RegistryName):
        entry, quantization = find_registry_entry(reference, registry), reference.quantization
        if quantization and quantization.upper() != entry.quantization.upper():
            reference, entry = RepoSpec(entry.repository, quantization), None
        else:
            reference = RepoSpec(entry.repository, file=entry.file, revision=entry.revision)
    listing = hub.fetch_listing(reference.repository, reference.revision)
    selection = select_files(
        listing.files, reference.repository, quantization=reference.quantization, file=reference.file
    )
    first, notices = selection.parts[0], []
    if entry is not None and entry.sha256 and first.sha256 and entry.sha256 != first.sha256:
        if entry.revision:
            raise HashMismatch(
                f"The hub offers another file as {entry.name} than the one that phichat knows",
                f"Pull {entry.repository}/{entry.file} if you trust it all the same",
            )
        notices.append(f"{entry.repository} has replaced {entry.file} since phichat noted its sha256.")
    if not reference.quantization and not reference.file and selection.quantization.upper() != DEFAULT_QUANTIZATION:
        notices.append(f"{reference.repository} has no {DEFAULT_QUANTIZATION}; {first.path} is all it has.")
    files = tuple(_plan_hub_file(hub, listing, file, paths) for file in selection.parts)
    pinned = re.fullmatch(r"[0-9a-f]{40}", reference.revision) is not None
    return DownloadPlan(
        entry.name if entry else reference.repository,
        reference.repository,
        files,
        listing.licence or (entry.licence if entry else ""),
        listing.is_gated,
        listing.commit,
        "" if pinned else reference.revision or "main",
        selection.quantization if selection.needs_check else "",
        tuple(notices),
    )


def _plan_hub_file(hub: HubClient, listing: RepositoryListing, file: HubFile, paths: Paths) -> PlannedFile:
    if not is_safe_path(file.path) or not re.fullmatch(r"[0-9a-f]{40}", listing.commit):
        raise HubError(f"The hub gives {listing.repository} a file that no path can have", "Choose another repository")
    if not (file.sha256 or file.git_oid) or file.size <= 0:
        raise DownloadError(f"The hub does not say what {file.path} has to be", "Choose another repository")
    destination = hub_destination(paths, listing.repository, listing.commit, file)
    return PlannedFile(
        destination, hub.open_file(listing, file), file.sha256 or file.git_oid, file.sha256, file.git_oid
    )


def plan_url_download(
    reference: UrlSpec, hub: HubClient, paths: Paths, *, sha256: str, allow_http: bool
) -> DownloadPlan:
    """Ask a plain server about a file. Raises UsageError, DownloadError and AccessDenied."""
    parts = urlsplit(reference.url)
    if parts.scheme.lower() == "http" and not allow_http and not _is_loopback(parts.hostname or ""):
        raise UsageError(f"{reference.url} is not encrypted", "Use https, or allow it with --insecure")
    destination = url_destination(paths, reference.url)
    remote_file = hub.open_url(reference.url)
    _fetch_metadata(remote_file)
    identity = f"{reference.url} {remote_file.validator}"
    file = PlannedFile(destination, remote_file, identity, sha256)
    notice = (
        "" if sha256 else "Nobody has promised a sha256 for this address; --sha256 takes one. This time it is trusted."
    )
    return DownloadPlan(destination.path.name, reference.url, (file,), notices=(notice,) if notice else ())


def _fetch_metadata(remote_file: RemoteFile) -> None:
    """Learn from the server what the file is, trying more than once."""
    for wait_s in (0.5, 1.0, 2.0, 0.0):
        try:
            remote_file.fetch_metadata()
            return
        except TransferInterrupted as error:
            last_error = error
        time.sleep(min(max(wait_s, last_error.wait_s), _MAX_RETRY_WAIT_S))
    raise DownloadError(
        f"The server does not give {remote_file.name}: {last_error.reason}", "Check the address and the connection"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
