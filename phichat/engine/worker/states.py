"""KV states in the engine process: what is saved when, and what brings back most of a prompt."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Tokens
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO

from phichat.engine.protocol import Load
from phichat.engine.states import PART, TRIED, WHOLE, StateFile, StateFolder, owner_mark
from phichat.engine.worker import state_file
from phichat.engine.worker.sequences import FEWEST_SHARED, Sequence, Sequences
from phichat.engine.worker.state_file import Damaged, Head, is_written

_FEWEST = 128
"""Tokens that are worth a file."""
_FEWEST_MORE = 8
"""Tokens more than any state has, that are worth a new one when the engine leaves."""
_FEWEST_BACK = FEWEST_SHARED
"""Tokens more than the KV cache has already, that are worth restoring a state."""
_BYTES_PER_S = 300e6
"""How fast a state is brought back, at worst: a disk of the slower kind, or a processor without instructions for
SHA-256."""
_WRITING_COSTS = 4
"""While the engine stays, a state is written when that saves so much more than bringing it back takes: disks wear."""
_OTHERS_S = 3.0
"""How long another engine that has just left is waited for, while it writes what is asked for here."""
_LARGE = 256_000_000

_INDIFFERENT = ("path", "threads", "prompt_threads", "batch_costs", "prove", "states", "state_budget")
"""The parts of Load that change no number in a state, or that `identity` says better."""


@dataclass(frozen=True, slots=True)
class _Stored:
    file: StateFile
    head: Head


@dataclass(frozen=True, slots=True)
class _Copy:
    """A state on its way to the disk. older: what it replaces. since_ns: when its conversation was spoken in."""

    part: Path
    file: BinaryIO
    head: Head
    payload: Any
    older: tuple[Path, ...]
    since_ns: int


class States:
    """The states of one loaded model; without a folder in the request there are none."""

    def __init__(self, lib: Any, context: Any, sequences: Sequences, request: Load) -> None:
        self._lib, self._context, self._sequences = lib, context, sequences
        self._memory = lib.llama_get_memory(context)
        kept = request.states and request.state_budget
        self._folder = StateFolder(Path(request.states), request.state_budget) if kept else None
        made_with = {name: value for name, value in asdict(request).items() if name not in _INDIFFERENT}
        self._key = hashlib.sha256(json.dumps(made_with).encode() + state_file.MAGIC).hexdigest()
        self._heads: dict[Path, _Stored] = {}
        self._read_s = self._read_tokens = 0.0
        self._writer: Thread | None = None
        self._unsaved: set[Sequence] = set()
        if self._folder:
            with contextlib.suppress(OSError):
                self._folder.path.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._folder.path.chmod(0o700)
            self._folder.sweep()

    def learn(self, seconds: float, tokens: int) -> None:
        """So long it took to evaluate so many tokens of a prompt."""
        if tokens >= _FEWEST_MORE:
            self._read_s, self._read_tokens = self._read_s + seconds, self._read_tokens + tokens

    @property
    def _token_s(self) -> float:
        return self._read_s / self._read_tokens if self._read_tokens else 0.0

    # Giving way

    def take(self, tokens: Tokens[int], is_wanted: Callable[[], bool]) -> Sequence | None:
        """A sequence for those tokens, as `Sequences.take`. is_wanted: whether who asks may go on with it later.

        While nobody else is answered, what rests gives its cells up where it can be had again, so that the cells
        in use are those that an engine would use which was just started: in others, attention is summed in
        another order and rounds otherwise, and it has all of them to pass.
        """
        if not any(one.busy for one in self._sequences.all):
            best = max(self._sequences.all, key=lambda one: one.of_use(tokens))
            for one in self._sequences.all:
                length = one.of_use(tokens) if one is best else 0
                if length < len(one.cached) and self._can_be_had_again(one, length):
                    one.cut(length)
        taken = self._sequences.take(tokens)
        if taken:
            taken.is_wanted = is_wanted
        return taken

    def _can_be_had_again(self, sequence: Sequence, length: int) -> bool:
        """Whether little is lost when it is cut to that length."""
        if len(sequence.cached) - length < _FEWEST:
            return True
        if not sequence.owner:
            return not sequence.is_wanted()
        if self._folder is None:
            return False
        tokens = state_file.pack(sequence.cached)
        same = max((state_file.shared(stored.head.tokens, tokens) for stored in self._stored()), default=0)
        return len(sequence.cached) - same < _FEWEST or self._save(sequence, _worth_leaving)

    # Restoring

    def begin(self, sequence: Sequence, tokens: Tokens[int], conversation: str, cancelled: Callable[[], bool]) -> None:
        """A conversation takes a sequence: bring back what is kept of its prompt, where that pays."""
        sequence.owner, sequence.asked_ns = owner_mark(conversation), time.time_ns()
        self._unsaved.discard(sequence)  # what the last one has left there may not be kept under another name
        if self._folder is None:
            return
        self._wait_for_writer(sequence.owner, cancelled)
        wanted, passed = state_file.pack(tokens[:-1]), set[Path]()
        while (best := self._best(wanted, len(sequence.cached), passed)) and not cancelled():
            passed.add(best.file.path)
            if self._restore(best, sequence):
                sequence.keep_prefix(tokens)
                if not self._read_tokens:
                    self.learn(best.head.seconds * best.head.count, best.head.count)

    def _wait_for_writer(self, owner: str, cancelled: Callable[[], bool]) -> None:
        """The engine of the last answer may still be writing while it leaves."""
        assert self._folder is not None
        until = time.monotonic() + _OTHERS_S
        while owner and not self._is_writing and time.monotonic() < until and not cancelled():
            if not any(
                file.kind == PART and (file.key, file.owner) == (self._key[:16], owner) and is_written(file.path)
                for file in self._folder.files()
            ):
                return
            time.sleep(0.01)

    def _best(self, wanted: bytes, live: int, passed: set[Path]) -> _Stored | None:
        """What saves most, if that is clearly more than what is there already."""

        def saved(stored: _Stored) -> float:
            same = state_file.shared(stored.head.tokens, wanted)
            if same - live < _FEWEST_BACK or not _useful(stored.head, same):
                return 0.0
            return (same - live) * stored.head.seconds - 2 * stored.head.payload / _BYTES_PER_S

        found = [stored for stored in self._stored() if stored.file.path not in passed]
        best = max(found, key=saved, default=None)
        return best if best and saved(best) > 0 else None

    def _stored(self) -> Iterator[_Stored]:
        """The states made with this key, as they are now; what is damaged goes."""
        assert self._folder is not None
        known, self._heads = self._heads, {}
        for file in self._folder.files():
            if file.key != self._key[:16] or file.kind != WHOLE:
                continue
            stored = known.get(file.path)
            if stored is None or stored.file != file:
                stored = self._opened(file)
            if stored is not None:
                self._heads[file.path] = stored
        return iter(self._heads.values())

    def _opened(self, file: StateFile) -> _Stored | None:
        assert self._folder is not None
        try:
            with file.path.open("rb") as content:
                head = state_file.read_head(content)
            trusted = (head.key, head.owner) == (self._key, file.owner) and head.payload <= self._folder.budget
        except (Damaged, MemoryError):
            trusted = False
        except OSError:
            return None
        if trusted and not self._folder.is_forgotten(file.owner, file.changed_ns):
            return _Stored(file, head)
        _remove(file.path)
        return None

    def _restore(self, stored: _Stored, sequence: Sequence) -> bool:
        """Whether the sequence holds the state now. If this process dies of it, nobody tries it again."""
        path, trial = stored.file.path, stored.file.path.with_suffix(TRIED)
        try:
            path.rename(trial)
            held = self._put(trial, stored.head, sequence)
            os.utime(trial)
        except Damaged:
            _remove(trial)
            return False
        except OSError:
            return False
        if held or any(other.busy for other in self._sequences.all if other is not sequence):
            # Where it is not held, they have the room that it needs.
            self._settle(trial, path, stored.file.owner, stored.file.changed_ns)
        else:
            _remove(trial)
        return held

    def _put(self, path: Path, head: Head, sequence: Sequence) -> bool:
        """Raises Damaged and OSError, before the library has seen anything."""
        with path.open("rb") as content:
            if state_file.read_head(content) != head:
                raise Damaged("it is another now")
            payload = state_file.map_payload(content, head)
        sequence.clear()
        while True:
            taken = self._lib.llama_state_seq_set_data(self._context, payload, head.payload, sequence.number)
            last = self._lib.llama_memory_seq_pos_max(self._memory, sequence.number)
            if taken == head.payload and last == head.count - 1:
                sequence.cached[:] = state_file.unpack(head.tokens)
                return True
            sequence.clear()
            if not self._sequences.give_room():
                return False

    # Saving

    def ended(self, sequence: Sequence) -> None:
        """An answer is complete; what the sequence holds may be worth keeping."""
        if self._folder and sequence.owner:
            self._unsaved.add(sequence)

    @property
    def has_unsaved(self) -> bool:
        """Whether there is something to look at when there is time."""
        return bool(self._unsaved)

    @property
    def would_save(self) -> bool:
        """Whether anything may have to be written before the engine leaves; from any thread."""
        return self._is_writing or any(one.owner and len(one.cached) >= _FEWEST for one in self._sequences.all)

    @property
    def _is_writing(self) -> bool:
        return self._writer is not None and self._writer.is_alive()

    def save_one(self) -> None:
        """Copy one state, and write it in another thread; nothing while one is being written."""
        if not self._is_writing:
            self._save(self._unsaved.pop(), _worth_staying)

    def _save(self, sequence: Sequence, worth: Callable[[int, float, float], bool]) -> bool:
        """Whether its state will be on the disk when another thread has written it."""
        if self._is_writing:
            return False
        copy = self._copied(sequence, worth)
        if copy:
            self._writer = Thread(target=self._write, args=(copy,), daemon=True)
            self._writer.start()
        return copy is not None

    def save_all(self) -> None:
        """Write what is worth it before the engine leaves."""
        if self._folder is None:
            return
        if self._writer:
            self._writer.join()
        for sequence in sorted(self._sequences.all, key=lambda one: -one.asked_ns):
            if copy := self._copied(sequence, _worth_leaving):
                self._write(copy)

    def _copied(self, sequence: Sequence, worth: Callable[[int, float, float], bool]) -> _Copy | None:
        """A copy of what a sequence holds, with its place on the disk; None when it is not worth it."""
        assert self._folder is not None
        count, token_s, owner = len(sequence.cached), self._token_s, sequence.owner
        if not owner or count < _FEWEST or self._folder.is_forgotten(owner, sequence.asked_ns):
            return None
        size = int(self._lib.llama_state_seq_get_size(self._context, sequence.number))
        back_s = size / _BYTES_PER_S
        if count * token_s <= back_s:
            return None
        tokens = state_file.pack(sequence.cached)
        same = {stored: state_file.shared(stored.head.tokens, tokens) for stored in self._stored()}
        more = count - max((known for stored, known in same.items() if _useful(stored.head, known)), default=0)
        if not worth(more, token_s, back_s) or not _has_memory(size):
            return None
        older = tuple(
            stored.file.path
            for stored, known in same.items()
            if stored.file.owner == owner and known == stored.head.count < count
        )
        total = state_file.size_of(count, size)
        if not self._folder.make_room(total, older):
            return None
        part = self._folder.new_file(self._key, owner, count * token_s)
        try:
            payload = (ctypes.c_uint8 * size)()
            # Others who make room at the same time see what this one is going to take.
            file = state_file.create(part, total)
        except (OSError, MemoryError):
            _remove(part)
            return None
        copied = self._lib.llama_state_seq_get_data(self._context, payload, size, sequence.number)
        if copied != size or not self._folder.make_room(0, older):
            file.close()
            _remove(part)
            return None
        # llama.cpp leaves out what is outside of the last window.
        divisible = self._sequences.divisible and (not self._sequences.window or count <= self._sequences.window)
        head = Head(self._key, owner, tokens, token_s, divisible, size, "")
        return _Copy(part, file, head, payload, older, sequence.asked_ns)

    def _write(self, copy: _Copy) -> None:
        head = replace(copy.head, sha256=state_file.digest(copy.payload))
        try:
            state_file.write(copy.file, head, copy.payload)
        except OSError:
            _remove(copy.part)
            return
        self._settle(copy.part, copy.part.with_suffix(WHOLE), head.owner, copy.since_ns)
        for path in copy.older:
            _remove(path)

    def _settle(self, path: Path, name: Path, owner: str, since_ns: int) -> None:
        """Make a file a state, unless its conversation was removed meanwhile."""
        assert self._folder is not None
        with contextlib.suppress(OSError):
            path.rename(name)
            if self._folder.is_forgotten(owner, since_ns):
                name.unlink()


def _worth_staying(more: int, token_s: float, back_s: float) -> bool:
    """more: tokens that no state has."""
    return more * token_s > _WRITING_COSTS * back_s


def _worth_leaving(more: int, token_s: float, back_s: float) -> bool:
    return more >= _FEWEST_MORE


def _useful(head: Head, same: int) -> bool:
    """Whether what begins with `same` tokens of a state can begin with what is in it."""
    return head.divisible or same == head.count


def _has_memory(size: int) -> bool:
    """Whether a copy of so many bytes does not bring the machine into trouble."""
    if size < _LARGE:
        return True
    from phichat.engine.hardware import probe_memory

    return probe_memory().available > 2 * size


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
