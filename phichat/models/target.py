"""From a SPEC to the files that are to be downloaded."""

from __future__ import annotations

import difflib
import ipaddress
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from phichat.errors import DownloadError, HashMismatch, ModelNotInstalled, UsageError
from phichat.models.choose import USUAL, HubFile, choose
from phichat.models.destination import Destination, hub_destination, note_revision, url_destination
from phichat.models.hub import Hub, Listing
from phichat.models.registry import ModelSpec
from phichat.models.source import Interrupted, Source
from phichat.models.spec import RegistryName, RepoSpec, UrlSpec
from phichat.paths import Paths

_NEAREST = 3
_LONGEST_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Item:
    """One file to download. sha256 is "" where nobody has promised one."""

    place: Destination
    source: Source
    identity: str
    sha256: str
    git_oid: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """One model to download; of a split model the parts in order.

    origin: the repository or the address. quantization: what the header has to say, "" where the name is clear.
    revision: the branch or tag that commit was found by, "" for a pinned one. size in bytes.
    """

    name: str
    origin: str
    items: tuple[Item, ...]
    licence: str = ""
    is_gated: bool = False
    commit: str = ""
    revision: str = ""
    quantization: str = ""
    notices: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return sum(item.source.size for item in self.items)

    @property
    def is_promised(self) -> bool:
        """Whether somebody has said what every file has to be."""
        return all(item.sha256 or item.git_oid for item in self.items)

    def note_revision(self, paths: Paths) -> None:
        """Let other tools find the commit offline. Raises OSError."""
        if self.commit:
            note_revision(paths, self.origin, self.revision or "main", self.commit, overrides=bool(self.revision))


def registry_entry(wanted: RegistryName, registry: Mapping[str, ModelSpec]) -> ModelSpec:
    """The entry of that name or alias. Raises ModelNotInstalled, naming the three nearest."""
    for spec in registry.values():
        if spec.is_called(wanted.name):
            return spec
    near = nearest(wanted.name, registry)
    raise ModelNotInstalled(
        f"There is no model called {wanted.name!r}", f"the nearest are {', '.join(near)}, or give owner/repo"
    )


def nearest(name: str, registry: Mapping[str, ModelSpec]) -> list[str]:
    """The three names of the registry that are most like it."""
    return difflib.get_close_matches(name.lower(), registry, _NEAREST, 0.0)


def find(wanted: RegistryName | RepoSpec, registry: Mapping[str, ModelSpec], hub: Hub, paths: Paths) -> Target:
    """Ask the hub what is meant. Raises HubError, ModelChoiceError, ModelNotInstalled and HashMismatch."""
    entry: ModelSpec | None = None
    if isinstance(wanted, RegistryName):
        entry, quantization = registry_entry(wanted, registry), wanted.quantization
        if quantization and quantization.upper() != entry.quantization.upper():
            wanted, entry = RepoSpec(entry.repository, quantization), None
        else:
            wanted = RepoSpec(entry.repository, file=entry.file, revision=entry.revision)
    listing = hub.listing(wanted.repository, wanted.revision)
    choice = choose(listing.files, wanted.repository, quantization=wanted.quantization, file=wanted.file)
    first, notices = choice.parts[0], []
    if entry is not None and entry.sha256 and first.sha256 and entry.sha256 != first.sha256:
        if entry.revision:
            raise HashMismatch(
                f"The hub offers another file as {entry.name} than the one that phichat knows",
                f"pull {entry.repository}/{entry.file} if you trust it all the same",
            )
        notices.append(f"{entry.repository} has replaced {entry.file} since phichat noted its sha256.")
    if not wanted.quantization and not wanted.file and choice.quantization.upper() != USUAL:
        notices.append(f"{wanted.repository} has no {USUAL}; {first.path} is all it has.")
    items = tuple(_hub_item(hub, listing, file, paths) for file in choice.parts)
    pinned = re.fullmatch(r"[0-9a-f]{40}", wanted.revision) is not None
    return Target(
        entry.name if entry else wanted.repository,
        wanted.repository,
        items,
        listing.licence or (entry.licence if entry else ""),
        listing.gated,
        listing.commit,
        "" if pinned else wanted.revision or "main",
        choice.quantization if choice.needs_check else "",
        tuple(notices),
    )


def _hub_item(hub: Hub, listing: Listing, file: HubFile, paths: Paths) -> Item:
    if not (file.sha256 or file.git_oid) or file.size <= 0:
        raise DownloadError(f"The hub does not say what {file.path} has to be", "choose another repository")
    place = hub_destination(paths, listing.repository, listing.commit, file)
    return Item(place, hub.source(listing, file), file.sha256 or file.git_oid, file.sha256, file.git_oid)


def find_url(wanted: UrlSpec, hub: Hub, paths: Paths, *, sha256: str, is_insecure: bool) -> Target:
    """Ask a plain server about a file. Raises UsageError, DownloadError and AccessDenied."""
    parts = urlsplit(wanted.url)
    if parts.scheme.lower() == "http" and not is_insecure and not _is_here(parts.hostname or ""):
        raise UsageError(f"{wanted.url} is not encrypted", "use https, or allow it with --insecure")
    place = url_destination(paths, wanted.url)
    source = hub.plain_source(wanted.url)
    _describe(source)
    identity = f"{wanted.url} {source.validator}"
    item = Item(place, source, identity, sha256)
    notice = (
        "" if sha256 else "Nobody has promised a sha256 for this address; --sha256 takes one. This time it is trusted."
    )
    return Target(place.path.name, wanted.url, (item,), notices=(notice,) if notice else ())


def _describe(source: Source) -> None:
    """Learn from the server what the file is, trying more than once."""
    for wait_s in (0.5, 1.0, 2.0, 0.0):
        try:
            source.describe()
            return
        except Interrupted as why:
            last = why
        time.sleep(min(max(wait_s, last.wait_s), _LONGEST_WAIT_S))
    raise DownloadError(f"The server does not give {source.name}: {last.why}", "check the address and the connection")


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
