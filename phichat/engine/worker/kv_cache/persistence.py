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
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO

from phichat.engine.ipc.protocol import LoadModel
from phichat.engine.kv_store import (
    COMPLETE_SUFFIX,
    PARTIAL_SUFFIX,
    RESTORING_SUFFIX,
    KvStore,
    KvStoreFile,
    encode_conversation_id,
)
from phichat.engine.worker.kv_cache import file_format
from phichat.engine.worker.kv_cache.file_format import CorruptKvFile, KvFileHeader, is_being_written
from phichat.engine.worker.kv_cache.sequences import MIN_SHARED_PREFIX, Sequence, SequencePool

_MIN_TOKENS = 128
"""Tokens that are worth a file."""
_MIN_NEW_TOKENS_ON_EXIT = 8
"""Tokens more than any state has, that are worth a new one when the engine leaves."""
_MIN_RESTORE_GAIN = MIN_SHARED_PREFIX
"""Tokens more than the KV cache has already, that are worth restoring a state."""
_RESTORE_BYTES_PER_S = 300e6
"""How fast a state is brought back, at worst: a disk of the slower kind, or a processor without instructions for
SHA-256."""
_WRITE_COST_FACTOR = 4
"""While the engine stays, a state is written when that saves so much more than bringing it back takes: disks wear."""
_WRITER_WAIT_S = 3.0
"""How long another engine that has just left is waited for, while it writes what is asked for here."""
_LARGE_COPY_BYTES = 256_000_000


@dataclass(frozen=True, slots=True)
class _StoredCache:
    file: KvStoreFile
    header: KvFileHeader


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """A state on its way to the disk. older: what it replaces. since_ns: when its conversation was spoken in."""

    part_path: Path
    file: BinaryIO
    header: KvFileHeader
    payload: Any
    replaced: tuple[Path, ...]
    last_used_ns: int


class KvPersistence:
    """The states of one loaded model; without a folder in the request there are none."""

    def __init__(self, lib: Any, context: Any, pool: SequencePool, request: LoadModel) -> None:
        self._lib, self._context, self._pool = lib, context, pool
        self._memory = lib.llama_get_memory(context)
        is_enabled = request.kv_store_path and request.kv_store_budget
        self._store = KvStore(Path(request.kv_store_path), request.kv_store_budget) if is_enabled else None
        # The names and their order are part of the key, so that the files of 0.1 stay valid.
        key_fields = {
            "n_ctx": request.n_ctx,
            "n_batch": request.n_batch,
            "sequences": request.n_seq_max,
            "n_gpu_layers": request.n_gpu_layers,
            "tensor_split": request.tensor_split,
            "type_k": request.type_k,
            "type_v": request.type_v,
            "extra_buffers": request.extra_buffers,
            "identity": request.model_identity,
        }
        self._key = hashlib.sha256(json.dumps(key_fields).encode() + file_format.MAGIC).hexdigest()
        self._stored_caches: dict[Path, _StoredCache] = {}
        self._prefill_s = self._prefill_tokens = 0.0
        self._writer_thread: Thread | None = None
        self._dirty: set[Sequence] = set()
        if self._store:
            with contextlib.suppress(OSError):
                self._store.path.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._store.path.chmod(0o700)
            self._store.remove_stale()

    def record_prefill(self, seconds: float, tokens: int) -> None:
        """So long it took to evaluate so many tokens of a prompt."""
        if tokens >= _MIN_NEW_TOKENS_ON_EXIT:
            self._prefill_s, self._prefill_tokens = self._prefill_s + seconds, self._prefill_tokens + tokens

    @property
    def _seconds_per_token(self) -> float:
        return self._prefill_s / self._prefill_tokens if self._prefill_tokens else 0.0

    # Giving way

    def acquire(self, tokens: Tokens[int], may_continue: Callable[[], bool]) -> Sequence | None:
        """A sequence for those tokens, as `Sequences.take`. is_wanted: whether who asks may go on with it later.

        While nobody else is answered, what rests gives its cells up where it can be had again, so that the cells
        in use are those that an engine would use which was just started: in others, attention is summed in
        another order and rounds otherwise, and it has all of them to pass.
        """
        if not any(one.is_busy for one in self._pool.sequences):
            best = max(self._pool.sequences, key=lambda one: one.reusable_prefix(tokens))
            for one in self._pool.sequences:
                length = one.reusable_prefix(tokens) if one is best else 0
                if length < len(one.cached_tokens) and self._is_cheap_to_recreate(one, length):
                    one.truncate(length)
        sequence = self._pool.acquire(tokens)
        if sequence:
            sequence.may_continue = may_continue
        return sequence

    def _is_cheap_to_recreate(self, sequence: Sequence, length: int) -> bool:
        """Whether little is lost when it is cut to that length."""
        if len(sequence.cached_tokens) - length < _MIN_TOKENS:
            return True
        if not sequence.conversation_key:
            return not sequence.may_continue()
        if self._store is None:
            return False
        tokens = file_format.pack_tokens(sequence.cached_tokens)
        shared = max(
            (file_format.common_prefix_length(stored.header.tokens, tokens) for stored in self._list_stored()),
            default=0,
        )
        return len(sequence.cached_tokens) - shared < _MIN_TOKENS or self._start_save(sequence, _worth_saving_on_exit)

    # Restoring

    def restore_for(
        self, sequence: Sequence, tokens: Tokens[int], conversation_id: str, is_cancelled: Callable[[], bool]
    ) -> None:
        """A conversation takes a sequence: bring back what is kept of its prompt, where that pays."""
        sequence.conversation_key, sequence.last_used_ns = encode_conversation_id(conversation_id), time.time_ns()
        self._dirty.discard(sequence)  # what the last one has left there may not be kept under another name
        if self._store is None:
            return
        self._wait_for_writer(sequence.conversation_key, is_cancelled)
        packed, skipped = file_format.pack_tokens(tokens[:-1]), set[Path]()
        while (best := self._find_best(packed, len(sequence.cached_tokens), skipped)) and not is_cancelled():
            skipped.add(best.file.path)
            if self._restore_cache(best, sequence):
                sequence.truncate_to_prefix_of(tokens)
                if not self._prefill_tokens:
                    self.record_prefill(best.header.seconds * best.header.token_count, best.header.token_count)

    def _wait_for_writer(self, conversation_key: str, is_cancelled: Callable[[], bool]) -> None:
        """The engine of the last answer may still be writing while it leaves."""
        assert self._store is not None
        deadline = time.monotonic() + _WRITER_WAIT_S
        while conversation_key and not self._is_writing and time.monotonic() < deadline and not is_cancelled():
            if not any(
                file.suffix == PARTIAL_SUFFIX
                and (file.model_key, file.conversation_key) == (self._key[:16], conversation_key)
                and is_being_written(file.path)
                for file in self._store.list_files()
            ):
                return
            time.sleep(0.01)

    def _find_best(self, packed: bytes, cached_count: int, skipped: set[Path]) -> _StoredCache | None:
        """What saves most, if that is clearly more than what is there already."""

        def time_saved(stored: _StoredCache) -> float:
            shared = file_format.common_prefix_length(stored.header.tokens, packed)
            if shared - cached_count < _MIN_RESTORE_GAIN or not _is_usable(stored.header, shared):
                return 0.0
            return (shared - cached_count) * stored.header.seconds - 2 * stored.header.payload / _RESTORE_BYTES_PER_S

        candidates = [stored for stored in self._list_stored() if stored.file.path not in skipped]
        best = max(candidates, key=time_saved, default=None)
        return best if best and time_saved(best) > 0 else None

    def _list_stored(self) -> Iterator[_StoredCache]:
        """The states made with this key, as they are now; what is damaged goes."""
        assert self._store is not None
        previous, self._stored_caches = self._stored_caches, {}
        for file in self._store.list_files():
            if file.model_key != self._key[:16] or file.suffix != COMPLETE_SUFFIX:
                continue
            stored = previous.get(file.path)
            if stored is None or stored.file != file:
                stored = self._read_stored(file)
            if stored is not None:
                self._stored_caches[file.path] = stored
        return iter(self._stored_caches.values())

    def _read_stored(self, file: KvStoreFile) -> _StoredCache | None:
        assert self._store is not None
        try:
            with file.path.open("rb") as content:
                header = file_format.read_header(content)
            is_valid = (header.key, header.owner) == (
                self._key,
                file.conversation_key,
            ) and header.payload <= self._store.budget
        except (CorruptKvFile, MemoryError):
            is_valid = False
        except OSError:
            return None
        if is_valid and not self._store.was_deleted_since(file.conversation_key, file.changed_ns):
            return _StoredCache(file, header)
        _remove_file(file.path)
        return None

    def _restore_cache(self, stored: _StoredCache, sequence: Sequence) -> bool:
        """Whether the sequence holds the state now. If this process dies of it, nobody tries it again."""
        path, restoring_path = stored.file.path, stored.file.path.with_suffix(RESTORING_SUFFIX)
        try:
            path.rename(restoring_path)
            is_restored = self._load_into(restoring_path, stored.header, sequence)
            os.utime(restoring_path)
        except CorruptKvFile:
            _remove_file(restoring_path)
            return False
        except OSError:
            return False
        if is_restored or any(other.is_busy for other in self._pool.sequences if other is not sequence):
            # Where it is not held, they have the room that it needs.
            self._publish(restoring_path, path, stored.file.conversation_key, stored.file.changed_ns)
        else:
            _remove_file(restoring_path)
        return is_restored

    def _load_into(self, path: Path, header: KvFileHeader, sequence: Sequence) -> bool:
        """Raises Damaged and OSError, before the library has seen anything."""
        with path.open("rb") as content:
            if file_format.read_header(content) != header:
                raise CorruptKvFile("it is another now")
            payload = file_format.map_payload(content, header)
        sequence.clear()
        while True:
            bytes_read = self._lib.llama_state_seq_set_data(self._context, payload, header.payload, sequence.seq_id)
            last_position = self._lib.llama_memory_seq_pos_max(self._memory, sequence.seq_id)
            if bytes_read == header.payload and last_position == header.token_count - 1:
                sequence.cached_tokens[:] = file_format.unpack_tokens(header.tokens)
                return True
            sequence.clear()
            if not self._pool.evict_idle():
                return False

    # Saving

    def mark_dirty(self, sequence: Sequence) -> None:
        """An answer is complete; what the sequence holds may be worth keeping."""
        if self._store and sequence.conversation_key:
            self._dirty.add(sequence)

    @property
    def has_dirty(self) -> bool:
        """Whether there is something to look at when there is time."""
        return bool(self._dirty)

    @property
    def needs_save_on_exit(self) -> bool:
        """Whether anything may have to be written before the engine leaves; from any thread."""
        return self._is_writing or any(
            one.conversation_key and len(one.cached_tokens) >= _MIN_TOKENS for one in self._pool.sequences
        )

    @property
    def _is_writing(self) -> bool:
        return self._writer_thread is not None and self._writer_thread.is_alive()

    def save_next(self) -> None:
        """Copy one state, and write it in another thread; nothing while one is being written."""
        if not self._is_writing:
            self._start_save(self._dirty.pop(), _worth_saving_now)

    def _start_save(self, sequence: Sequence, is_worth: Callable[[int, float, float], bool]) -> bool:
        """Whether its state will be on the disk when another thread has written it."""
        if self._is_writing:
            return False
        snapshot = self._take_snapshot(sequence, is_worth)
        if snapshot:
            self._writer_thread = Thread(target=self._write_snapshot, args=(snapshot,), daemon=True)
            self._writer_thread.start()
        return snapshot is not None

    def save_all(self) -> None:
        """Write what is worth it before the engine leaves."""
        if self._store is None:
            return
        if self._writer_thread:
            self._writer_thread.join()
        for sequence in sorted(self._pool.sequences, key=lambda one: -one.last_used_ns):
            if snapshot := self._take_snapshot(sequence, _worth_saving_on_exit):
                self._write_snapshot(snapshot)

    def _take_snapshot(self, sequence: Sequence, is_worth: Callable[[int, float, float], bool]) -> _Snapshot | None:
        """A copy of what a sequence holds, with its place on the disk; None when it is not worth it."""
        assert self._store is not None
        count, token_s, conversation_key = (
            len(sequence.cached_tokens),
            self._seconds_per_token,
            sequence.conversation_key,
        )
        if (
            not conversation_key
            or count < _MIN_TOKENS
            or self._store.was_deleted_since(conversation_key, sequence.last_used_ns)
        ):
            return None
        size = int(self._lib.llama_state_seq_get_size(self._context, sequence.seq_id))
        restore_s = size / _RESTORE_BYTES_PER_S
        if count * token_s <= restore_s:
            return None
        tokens = file_format.pack_tokens(sequence.cached_tokens)
        shared_lengths = {
            stored: file_format.common_prefix_length(stored.header.tokens, tokens) for stored in self._list_stored()
        }
        new_tokens = count - max(
            (known for stored, known in shared_lengths.items() if _is_usable(stored.header, known)), default=0
        )
        if not is_worth(new_tokens, token_s, restore_s) or not _has_memory_for(size):
            return None
        replaced = tuple(
            stored.file.path
            for stored, known in shared_lengths.items()
            if stored.file.conversation_key == conversation_key and known == stored.header.token_count < count
        )
        total = file_format.max_file_size(count, size)
        if not self._store.evict(total, replaced):
            return None
        part_path = self._store.make_partial_path(self._key, conversation_key, count * token_s)
        try:
            payload = (ctypes.c_uint8 * size)()
            # Others who make room at the same time see what this one is going to take.
            file = file_format.create_file(part_path, total)
        except (OSError, MemoryError):
            _remove_file(part_path)
            return None
        bytes_copied = self._lib.llama_state_seq_get_data(self._context, payload, size, sequence.seq_id)
        if bytes_copied != size or not self._store.evict(0, replaced):
            file.close()
            _remove_file(part_path)
            return None
        # llama.cpp leaves out what is outside of the last window.
        can_truncate = self._pool.can_truncate and (not self._pool.n_swa or count <= self._pool.n_swa)
        header = KvFileHeader(self._key, conversation_key, tokens, token_s, can_truncate, size, "")
        return _Snapshot(part_path, file, header, payload, replaced, sequence.last_used_ns)

    def _write_snapshot(self, snapshot: _Snapshot) -> None:
        header = replace(snapshot.header, sha256=file_format.sha256_hex(snapshot.payload))
        try:
            file_format.write_file(snapshot.file, header, snapshot.payload)
        except OSError:
            _remove_file(snapshot.part_path)
            return
        self._publish(
            snapshot.part_path, snapshot.part_path.with_suffix(COMPLETE_SUFFIX), header.owner, snapshot.last_used_ns
        )
        for path in snapshot.replaced:
            _remove_file(path)

    def _publish(self, path: Path, final_path: Path, conversation_key: str, last_used_ns: int) -> None:
        """Make a file a state, unless its conversation was removed meanwhile."""
        assert self._store is not None
        with contextlib.suppress(OSError):
            path.rename(final_path)
            if self._store.was_deleted_since(conversation_key, last_used_ns):
                final_path.unlink()


def _worth_saving_now(new_tokens: int, token_s: float, restore_s: float) -> bool:
    """more: tokens that no state has."""
    return new_tokens * token_s > _WRITE_COST_FACTOR * restore_s


def _worth_saving_on_exit(new_tokens: int, token_s: float, restore_s: float) -> bool:
    return new_tokens >= _MIN_NEW_TOKENS_ON_EXIT


def _is_usable(header: KvFileHeader, shared: int) -> bool:
    """Whether what begins with `same` tokens of a state can begin with what is in it."""
    return header.divisible or shared == header.token_count


def _has_memory_for(size: int) -> bool:
    """Whether a copy of so many bytes does not bring the machine into trouble."""
    if size < _LARGE_COPY_BYTES:
        return True
    from phichat.engine.planner.hardware import probe_memory

    return probe_memory().available > 2 * size


def _remove_file(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
