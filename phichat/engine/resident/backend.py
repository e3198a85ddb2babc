"""The backend that asks an engine which stays: one that is there, or one that it starts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from phichat.engine import protocol
from phichat.engine.asking import Asking
from phichat.engine.backend import Cancel, LoadEvent
from phichat.engine.link import Deadlines, EngineLink
from phichat.engine.protocol import Card, Reply
from phichat.engine.resident.address import Address
from phichat.engine.resident.knocking import Absence, knock
from phichat.engine.resident.visitor import Visitor, until_loaded
from phichat.errors import EngineCrashed, EngineError
from phichat.events import ModelLoading, ModelReady

if TYPE_CHECKING:
    from phichat.engine.local import LocalBackend
    from phichat.engine.process import EngineProcess

_TRIES = 20
"""More often than an engine is found gone when ten clients kill and start them, and no endless loop."""

Local = Callable[[Callable[[Deadlines, int], "EngineProcess"] | None], "LocalBackend"]
"""Makes the backend that plans and loads; given a way to start the engine process, None for a private one."""


class ResidentBackend(Asking):
    """One GGUF file, in an engine that others use too and that stays when they have left.

    Where that is not to be had (an engine too busy to answer, a folder that cannot be used) it has one of its own.
    keep_alive: seconds that the engine shall stay without clients. spin_count: that an engine is started with.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        address: Address,
        keep_alive: float,
        local: Local,
        deadlines: Deadlines,
        spin_count: Callable[[], int],
    ) -> None:
        super().__init__(name, path)
        self._address, self._keep_alive, self._local = address, keep_alive, local
        self._deadlines, self._spin_count = deadlines, spin_count
        self._visitor: Visitor | None = None
        self._private: LocalBackend | None = None

    @property
    def n_ctx(self) -> int:
        if self._visitor is None and self._private is not None:
            return self._private.n_ctx
        return self._there().card.model.n_ctx

    def _there(self) -> Visitor:
        if self._visitor is None:
            raise EngineError("No model is loaded", "load one first")
        return self._visitor

    def _link(self) -> EngineLink:
        if self._visitor is None and self._private is not None:
            return self._private._link()
        return self._there()

    def _lost(self) -> None:
        self._visitor = None
        if self._private is not None:
            self._private._lost()

    # Loading

    def load(self, cancel: Cancel) -> Iterator[LoadEvent]:
        """As `Backend.load`. Raises ModelFileError, ModelDoesNotFit and EngineError kinds."""
        if self._visitor is not None and self._visitor.alive:
            return
        if self._private is not None:
            yield from self._of(self._private.load(cancel))
            return
        self.close()
        started = monotonic()
        yield ModelLoading(self._name, 0.0)
        with contextlib.suppress(OSError):
            for _ in range(_TRIES):
                found = knock(self._address, protocol.Visit(self._keep_alive), cancel)
                if found is Absence.CANCELLED:
                    return
                if found is Absence.SLOW:
                    break
                if found is Absence.NOBODY:
                    yield from self._opened(cancel)
                else:
                    is_welcome = yield from self._entered(*found, cancel)
                    if self._visitor is not None:
                        yield self._ready(monotonic() - started)
                    elif not is_welcome:
                        break
                if self._visitor is not None or cancel.is_set():
                    return
        self._private = self._local(None)
        yield from self._of(self._private.load(cancel))

    def _of(self, events: Iterator[LoadEvent]) -> Iterator[LoadEvent]:
        for event in events:
            if isinstance(event, ModelReady):
                self._unreported_load_s = event.load_s
            yield event

    def _entered(self, connection: Any, reply: Reply, cancel: Cancel) -> Generator[LoadEvent, None, bool]:
        """Come in as soon as the model is loaded; False where that cannot be."""
        try:
            waiting = until_loaded(connection, reply, cancel)
            while True:
                try:
                    yield ModelLoading(self._name, next(waiting))
                except StopIteration as end:
                    said: Reply | None = end.value
                    break
            if isinstance(said, Card):
                self._visitor = Visitor(self._deadlines, connection, self._address, said)
            return self._visitor is not None or said is None
        finally:
            if self._visitor is None:
                connection.close()

    def _ready(self, load_s: float) -> ModelReady:
        card = self._there().card
        self._unreported_load_s = load_s
        # The same file may go by another name here.
        model = replace(card.model, name=self._name)
        return ModelReady(model, str(self._path), card.n_ctx_train, load_s, card.notices)

    def _opened(self, cancel: Cancel) -> Iterator[LoadEvent]:
        """Start an engine, unless somebody else has been faster, and become its first client."""
        from phichat.engine.resident.opening import model_files, opened, program

        files = model_files(self._path)
        opening = opened(self._address, self._deadlines, self._spin_count(), cancel)
        if opening is None:
            return
        try:
            local = self._local(opening.start)
            for event in local.load(cancel):
                if isinstance(event, ModelReady):
                    local.let_stay(files, program(), cancel)
                    self._unreported_load_s = event.load_s
                    self._come_in(cancel)
                yield event
        finally:
            opening.close()

    def _come_in(self, cancel: Cancel) -> None:
        """Through the door that this process has opened. Raises EngineCrashed when nobody is there any more."""
        found = knock(self._address, protocol.Visit(self._keep_alive), cancel)
        if isinstance(found, Absence) or not isinstance(found[1], Card):
            raise EngineCrashed("The engine ended as soon as it had loaded the model", "ask again")
        self._visitor = Visitor(self._deadlines, found[0], self._address, found[1])

    # Asking

    def _ask(self, request: protocol.Request, cancel: Cancel) -> Iterator[Reply]:
        heard = False
        try:
            for reply in super()._ask(request, cancel):
                heard = True
                yield reply
        except EngineCrashed:
            if heard or self._private is not None:
                raise
            # It left, or died, before it was asked: nothing is lost.
            for _ in self.load(cancel):
                pass
            if not cancel.is_set():
                yield from super()._ask(request, cancel)

    def unload(self) -> None:
        """Free the model's memory, unless others use it."""
        visitor, self._visitor = self._visitor, None
        if visitor is not None:
            visitor.dismiss()
        self.close()

    def close(self) -> None:
        """As `Backend.close`: the engine stays for others, and for the next time."""
        visitor, self._visitor = self._visitor, None
        if visitor is not None:
            visitor.close()
        private, self._private = self._private, None
        if private is not None:
            private.close()
