"""Pulling a model: hold its files, look into its header, fetch what is missing, prove it, put it in its place."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Generator, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from phichat.errors import HashMismatch, ModelChoiceError, StorageError
from phichat.gguf_header import GgufHeader, read_header, read_header_from
from phichat.models.destination import hold
from phichat.models.proofs import Proofs, Stop, sha256_of
from phichat.models.target import Item, Target
from phichat.models.transfer import Progress, Transfer, storage_error
from phichat.paths import Paths

_SPARE = 64 << 20
"""Bytes of the disk that stay free."""


@dataclass(frozen=True, slots=True)
class Proving:
    """A file that is there already is read whole; fraction from 0 to 1."""

    name: str
    fraction: float


Step = Progress | Proving


class Pull:
    """One model on its way. As a context manager it lets go of the files, which stay as far as they came.

    First `prepare`, then `header` and what else has to be asked, then `fetch`.
    """

    def __init__(self, target: Target, paths: Paths, proofs: Proofs, cancel: Stop) -> None:
        self.target = target
        self.sha256: dict[Path, str] = {}
        self._paths, self._proofs, self._cancel = paths, proofs, cancel
        self._held = ExitStack()
        self._transfers: dict[Path, Transfer] = {}

    def __enter__(self) -> Pull:
        return self

    def __exit__(self, *ended: object) -> None:
        for transfer in self._transfers.values():
            transfer.close()
        self._held.close()

    @property
    def path(self) -> Path:
        """The file to load; of a split model the first part."""
        return self.target.items[0].place.path

    @property
    def missing(self) -> int:
        """Bytes that have to come."""
        return sum(transfer.size - transfer.done for transfer in self._transfers.values())

    @property
    def is_complete(self) -> bool:
        """Whether every file is in its place and proven."""
        return len(self.sha256) == len(self.target.items)

    @property
    def fetched(self) -> int:
        """Bytes of the files that have come over the network in this run."""
        return sum(transfer.fetched for transfer in self._transfers.values())

    def prepare(self) -> Iterator[Step]:
        """Wait for other processes, prove what is there, begin or take up what is not.

        A file that is there and is not what it has to be becomes a partial download. Raises DownloadError.
        """
        for item in self.target.items:
            yield from hold(item.place.lock, item.place, self._held, item.source.size)
            is_damaged = False
            if existing := _existing(item):
                digest = yield from self._prove(existing, item)
                if digest:
                    self.sha256[item.place.path] = digest
                    self._put_in_place(item)
                    _clear(item)
                    continue
                if self._cancel.is_set():
                    return
                is_damaged = True
            self._transfers[item.place.path] = self._open(item, existing if is_damaged else None)

    def header(self) -> GgufHeader:
        """The header of the whole model, fetched as far as it is not there. Raises ModelFileError, PhichatError."""
        headers = [self._header_of(item) for item in self.target.items]
        tensors = tuple(tensor for header in headers for tensor in header.tensors)
        whole = replace(headers[0], tensors=tensors, file_size=sum(header.file_size for header in headers))
        if self.target.quantization and whole.quantization != self.target.quantization:
            raise ModelChoiceError(
                f"{self.path.name} is {whole.quantization or 'of an unknown quantization'}, "
                f"not {self.target.quantization}",
                f"name the file if that is what you want, as in {self.target.origin}/{self.path.name}",
            )
        return whole

    def require_space(self) -> None:
        """Raises StorageError when the disk has no room for what is missing."""
        for item in self.target.items:
            folder = item.place.part.parent
            if folder.is_dir() and (free := shutil.disk_usage(folder).free) < self.missing + _SPARE:
                raise StorageError(
                    f"{self.missing / 1e9:.2f} GB are to come and the disk of {folder} has {free / 1e9:.2f} GB free",
                    "free some space, or set HF_HUB_CACHE to a folder on another disk",
                )

    def abandon(self) -> None:
        """The user does not want it: what was fetched only to look at it goes."""
        for transfer in self._transfers.values():
            if transfer.begins_anew:
                transfer.discard()

    def fetch(self) -> Iterator[Progress]:
        """Fetch what is missing, prove it and put it in its place. Raises DownloadError and HubError."""
        total = sum(item.source.size for item in self.target.items)
        before = total - sum(transfer.size for transfer in self._transfers.values())
        for item in self.target.items:
            transfer = self._transfers.get(item.place.path)
            if transfer is None:
                continue
            try:
                for progress in transfer.run():
                    yield replace(progress, done=before + progress.done, total=total, fetched=self.fetched)
            except HashMismatch:
                transfer.discard()
                raise
            before += transfer.size
            self._keep(item, transfer)

    def _prove(self, path: Path, item: Item) -> Generator[Step, None, str]:
        """Returns the sha256 of a file that is what it has to be, else ""."""
        expected = item.sha256 or ("" if item.git_oid else self._proofs.expected(path))
        known = self._proofs.known(path)
        if known is not None and expected in ("", known.sha256):
            return known.sha256
        proving = sha256_of(path, self._cancel)
        while True:
            try:
                yield Proving(path.name, next(proving))
            except StopIteration as done:
                digest: str = done.value
                break
        if (
            not digest
            or (expected and digest != expected)
            or (item.git_oid and not expected and not _has_oid(path, item))
        ):
            return ""
        self._proofs.remember(path, digest)
        return digest

    def _open(self, item: Item, damaged: Path | None) -> Transfer:
        place = item.place
        try:
            if damaged is not None:
                self._proofs.forget(damaged)
                place.part.parent.mkdir(parents=True, exist_ok=True)
                damaged.replace(place.part)
                place.journal.unlink(missing_ok=True)
                if place.chunks.is_file():
                    shutil.copyfile(place.chunks, place.journal)
        except OSError as why:
            raise storage_error(why, place.part.parent) from why
        return Transfer(place.part, place.journal, item.source, identity=item.identity, sha256=item.sha256)

    def _header_of(self, item: Item) -> GgufHeader:
        transfer = self._transfers.get(item.place.path)
        if transfer is None:
            return read_header(item.place.path)
        return read_header_from(transfer.read, transfer.size, item.source.name)

    def _keep(self, item: Item, transfer: Transfer) -> None:
        place = item.place
        transfer.sync()
        if item.git_oid and not item.sha256 and not _has_oid(place.part, item):
            transfer.discard()
            raise HashMismatch(f"{item.source.name} is not what the hub says it is", "try again later")
        try:
            # In this order a kill in between leaves a whole file, and notes that the next run clears away.
            place.part.replace(place.content)
            transfer.finish(place.chunks)
        except OSError as why:
            raise storage_error(why, place.part.parent) from why
        self.sha256[place.path] = transfer.sha256
        self._put_in_place(item)
        self._proofs.remember(place.path, transfer.sha256)

    def _put_in_place(self, item: Item) -> None:
        try:
            if not item.place.path.exists():
                item.place.link()
            self.target.note_revision(self._paths)
        except OSError as why:
            if not item.place.path.exists():
                raise storage_error(why, item.place.path.parent) from why


def _existing(item: Item) -> Path | None:
    """The file where it belongs, of whatever content."""
    return next((path for path in (item.place.content, item.place.path) if path.is_file()), None)


def _clear(item: Item) -> None:
    """What a run that was killed at its very end has left beside the finished file."""
    with suppress(OSError):
        item.place.part.unlink(missing_ok=True)
        item.place.journal.unlink(missing_ok=True)


def _has_oid(path: Path, item: Item) -> bool:
    """Whether git would give the content the name that the hub gives it."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest() == item.git_oid


def repair(target: Target, paths: Paths, proofs: Proofs, cancel: Stop) -> Iterator[Step]:
    """Make the files of a target what they have to be, fetching only what is damaged where that is known.

    Whatever happens, no damaged file stays where a load would find it. Raises DownloadError and HubError.
    """
    with Pull(target, paths, proofs, cancel) as pull:
        for item in target.items:
            # A proof is only as old as the file; here the file itself is read.
            proofs.forget(item.place.content)
        yield from pull.prepare()
        if not cancel.is_set():
            pull.require_space()
            yield from pull.fetch()
