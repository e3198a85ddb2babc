"""Persistence of the KV cache: which sequences are saved when, and which saved one a prompt is restored from.

Only the main thread of the engine process uses it, but for `needs_save_on_exit`. A second thread writes one copy
of a sequence at a time; it never touches llama.cpp.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO

import msgspec

from phichat.engine import kv_store
from phichat.engine.ipc.protocol import LoadModel
from phichat.engine.kv_store import COMPLETE_SUFFIX, PARTIAL_SUFFIX, RESTORING_SUFFIX, KvStore, KvStoreFile
from phichat.engine.worker.kv_cache import file_format
from phichat.engine.worker.kv_cache.file_format import CorruptKvFile, KvFileHeader, is_being_written
from phichat.engine.worker.kv_cache.sequences import MIN_SHARED_PREFIX, KvSequence, SequencePool, common_prefix_length

_MIN_TOKENS = 128  # tokens that are worth a file
_MIN_NEW_TOKENS_ON_EXIT = 8  # tokens that no file has yet, for which a new one is written when the engine exits
_MIN_RESTORE_GAIN = MIN_SHARED_PREFIX  # tokens beyond those in the KV cache for which a file is restored
_RESTORE_BYTES_PER_S = 300e6
"""Speed of restoring at worst: from a slow disk, or on a processor without instructions for SHA-256."""
_WRITE_COST_FACTOR = 4
"""While the engine runs, a sequence is saved if that saves this many times the time of restoring: disks wear."""
_WRITER_TIMEOUT_S = 3.0  # how long to wait for another engine that exits and still writes the conversation wanted here
_LARGE_COPY_BYTES = 256_000_000
_KEY_FIELDS = "n_ctx n_batch sequences n_gpu_layers tensor_split type_k type_v extra_buffers identity"
_NEW_NAMES = {"sequences": "n_seq_max", "identity": "model_identity"}


def compute_cache_key(request: LoadModel) -> str:
    """Return the key of everything that changes the numbers in a KV cache, as 64 hex digits.

    The names and their order are those of version 0.1, so that its files stay valid.
    """
    fields = {name: getattr(request, _NEW_NAMES.get(name, name)) for name in _KEY_FIELDS.split()}
    return hashlib.sha256(json.dumps(fields).encode() + file_format.MAGIC).hexdigest()


@dataclass(frozen=True, slots=True)
class _StoredCache:
    file: KvStoreFile
    header: KvFileHeader

    def usable_prefix(self, tokens: bytes) -> int:
        """Return how many of its tokens a prompt can start with."""
        shared = file_format.common_prefix_length(self.header.tokens, tokens)
        return shared if self.header.divisible or shared == self.header.token_count else 0


class KvPersistence:
    """Saves and restores the sequences of one loaded model; does nothing if the request names no folder.

    dirty: sequences that a complete answer has changed, to be saved (`save_next`) when the engine is idle.
    """

    def __init__(self, lib: Any, context: Any, pool: SequencePool, request: LoadModel) -> None:
        self._lib, self._context, self._pool = lib, context, pool
        self._memory = lib.llama_get_memory(context)
        is_enabled = request.kv_store_path and request.kv_store_budget
        self._store = KvStore(Path(request.kv_store_path), request.kv_store_budget) if is_enabled else None
        self._key = compute_cache_key(request)
        self._stored_caches: dict[KvStoreFile, _StoredCache] = {}
        self._prefill_s = self._prefill_tokens = 0.0
        self._writer_thread: Thread | None = None
        self.dirty: set[KvSequence] = set()
        if self._store:
            with contextlib.suppress(OSError):
                self._store.path.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._store.path.chmod(0o700)
            self._store.remove_stale()

    def record_prefill(self, seconds: float, tokens: int) -> None:
        """Record how long it took to evaluate that many tokens of a prompt."""
        if tokens >= _MIN_NEW_TOKENS_ON_EXIT:
            self._prefill_s, self._prefill_tokens = self._prefill_s + seconds, self._prefill_tokens + tokens

    def acquire(self, tokens: Sequence[int], may_continue: Callable[[], bool]) -> KvSequence | None:
        """Return an idle sequence for the tokens, see `SequencePool.acquire`.

        may_continue: returns True while the client is connected, which may go on with the sequence later.
        When no request runs, idle sequences first release the cells that are cheap to recreate. Then the cells
        in use are those of an engine just started: in other cells attention is summed in another order, which
        rounds differently, and every decode has to pass all cells in use.
        """
        if not any(one.is_busy for one in self._pool.sequences):
            best = max(self._pool.sequences, key=lambda one: one.reusable_prefix(tokens))
            for one in self._pool.sequences:
                length = one.reusable_prefix(tokens) if one is best else 0
                if length < len(one.cached_tokens) and self._is_cheap_to_recreate(one, length):
                    one.truncate(length)
        if sequence := self._pool.acquire(tokens):
            sequence.may_continue = may_continue
        return sequence

    def _is_cheap_to_recreate(self, sequence: KvSequence, length: int) -> bool:
        """Return True if little is lost when the sequence is cut to that length."""
        count = len(sequence.cached_tokens)
        if count - length < _MIN_TOKENS:
            return True
        if not sequence.conversation_key:
            return not sequence.may_continue()
        if self._store is None:
            return False
        tokens = file_format.pack_tokens(sequence.cached_tokens)
        shared = max((stored.usable_prefix(tokens) for stored in self._list_stored()), default=0)
        return count - shared < _MIN_TOKENS or self._start_save(sequence, on_exit=True)

    # Restoring

    def restore_for(
        self, sequence: KvSequence, tokens: Sequence[int], conversation_id: str, is_cancelled: Callable[[], bool]
    ) -> None:
        """Assign an acquired sequence to a conversation, and restore a saved prefix of its prompt where that pays."""
        sequence.conversation_key = kv_store.encode_conversation_id(conversation_id)
        sequence.last_used_ns = time.time_ns()
        self.dirty.discard(sequence)  # the tokens of its last conversation may not be saved under this one's name
        if self._store is None:
            return
        self._wait_for_writer(self._store, sequence.conversation_key, is_cancelled)
        packed, skipped = file_format.pack_tokens(tokens[:-1]), set[Path]()
        while (best := self._find_best(packed, len(sequence.cached_tokens), skipped)) and not is_cancelled():
            skipped.add(best.file.path)
            if self._restore_cache(best, sequence):
                sequence.truncate(common_prefix_length(sequence.cached_tokens, tokens[:-1]))
                if not self._prefill_tokens:
                    self.record_prefill(best.header.seconds * best.header.token_count, best.header.token_count)

    def _wait_for_writer(self, store: KvStore, conversation_key: str, is_cancelled: Callable[[], bool]) -> None:
        """Wait while another engine, which answered last and exits, writes the conversation."""
        deadline, names = time.monotonic() + _WRITER_TIMEOUT_S, (self._key[:16], conversation_key, PARTIAL_SUFFIX)
        while conversation_key and not self._is_writing and time.monotonic() < deadline and not is_cancelled():
            files = store.list_files()
            parts = [file for file in files if (file.model_key, file.conversation_key, file.path.suffix) == names]
            if not any(is_being_written(file.path) for file in parts):
                return
            time.sleep(0.01)

    def _find_best(self, packed: bytes, cached_count: int, skipped: set[Path]) -> _StoredCache | None:
        """Return the stored cache that saves most, if it saves clearly more than the KV cache does already."""

        def time_saved(stored: _StoredCache) -> float:
            gain = stored.usable_prefix(packed) - cached_count
            restore_s = stored.header.payload / _RESTORE_BYTES_PER_S
            return gain * stored.header.seconds - 2 * restore_s if gain >= _MIN_RESTORE_GAIN else 0.0

        candidates = [stored for stored in self._list_stored() if stored.file.path not in skipped]
        best = max(candidates, key=time_saved, default=None)
        return best if best and time_saved(best) > 0 else None

    def _list_stored(self) -> Collection[_StoredCache]:
        """Return the files with this key as they are now; remove damaged ones."""
        assert self._store is not None
        names = (self._key[:16], COMPLETE_SUFFIX)
        files = [file for file in self._store.list_files() if (file.model_key, file.path.suffix) == names]
        caches = [self._stored_caches.get(file) or self._read_stored(self._store, file) for file in files]
        self._stored_caches = {stored.file: stored for stored in caches if stored}
        return self._stored_caches.values()

    def _read_stored(self, store: KvStore, file: KvStoreFile) -> _StoredCache | None:
        with contextlib.suppress(CorruptKvFile, MemoryError):
            try:
                with file.path.open("rb") as content:
                    header = file_format.read_header(content)
            except OSError:
                return None
            is_ours = (header.key, header.owner) == (self._key, file.conversation_key)
            was_deleted = store.was_deleted_since(file.conversation_key, file.changed_ns)
            if is_ours and header.payload <= store.budget and not was_deleted:
                return _StoredCache(file, header)
        _remove_file(file.path)
        return None

    def _restore_cache(self, stored: _StoredCache, sequence: KvSequence) -> bool:
        """Load a file into a sequence; False when that fails.

        The file has another name meanwhile, so that no engine tries again if this process dies of it.
        """
        path, restoring_path, is_restored = stored.file.path, stored.file.path.with_suffix(RESTORING_SUFFIX), False
        try:
            path.rename(restoring_path)
            is_restored = self._load_into(restoring_path, stored.header, sequence)
            os.utime(restoring_path)
            # One that was not restored may have lacked the cells that busy sequences hold: it stays valid.
            is_valid = is_restored or any(other.is_busy for other in self._pool.sequences if other is not sequence)
        except CorruptKvFile:
            is_valid = False
        except OSError:
            return False
        if is_valid:
            self._publish(restoring_path, path, stored.file.conversation_key, stored.file.changed_ns)
        else:
            _remove_file(restoring_path)
        return is_restored

    def _load_into(self, path: Path, header: KvFileHeader, sequence: KvSequence) -> bool:
        """Load a file; False when llama.cpp refuses it. Raises CorruptKvFile and OSError before llama.cpp sees it."""
        with path.open("rb") as content:
            if file_format.read_header(content) != header:
                raise CorruptKvFile("the file was replaced")
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

    def mark_dirty(self, sequence: KvSequence) -> None:
        """Mark a sequence as changed by a complete answer, to be saved when the engine is idle."""
        if self._store and sequence.conversation_key:
            self.dirty.add(sequence)

    @property
    def needs_save_on_exit(self) -> bool:
        """True if something may have to be written before the engine exits; from any thread."""
        return self._is_writing or any(
            one.conversation_key and len(one.cached_tokens) >= _MIN_TOKENS for one in self._pool.sequences
        )

    @property
    def _is_writing(self) -> bool:
        return self._writer_thread is not None and self._writer_thread.is_alive()

    def save_next(self) -> None:
        """Copy one marked sequence and write it in another thread; do nothing while one is being written."""
        if not self._is_writing:
            self._start_save(self.dirty.pop(), on_exit=False)

    def _start_save(self, sequence: KvSequence, *, on_exit: bool) -> bool:
        """Let another thread write a copy of a sequence; False when it is not worth it or the thread is busy."""
        if self._is_writing:
            return False
        if write := self._take_snapshot(sequence, on_exit=on_exit):
            self._writer_thread = Thread(target=write, daemon=True)
            self._writer_thread.start()
        return write is not None

    def save_all(self) -> None:
        """Write every sequence that is worth it, before the engine exits."""
        if self._store is None:
            return
        if self._writer_thread:
            self._writer_thread.join()
        for sequence in sorted(self._pool.sequences, key=lambda one: -one.last_used_ns):
            if write := self._take_snapshot(sequence, on_exit=True):
                write()

    def _take_snapshot(self, sequence: KvSequence, *, on_exit: bool) -> Callable[[], None] | None:
        """Copy a sequence, reserve its file, and return a function that writes it; None when that is not worth it."""
        assert self._store is not None
        conversation_key, last_used_ns = sequence.conversation_key, sequence.last_used_ns
        count, token_s = len(sequence.cached_tokens), self._prefill_s / (self._prefill_tokens or 1)
        if not conversation_key or count < _MIN_TOKENS or self._store.was_deleted_since(conversation_key, last_used_ns):
            return None
        size = int(self._lib.llama_state_seq_get_size(self._context, sequence.seq_id))
        restore_s = size / _RESTORE_BYTES_PER_S
        if count * token_s <= restore_s:
            return None
        tokens = file_format.pack_tokens(sequence.cached_tokens)
        shared = {stored: stored.usable_prefix(tokens) for stored in self._list_stored()}
        new_tokens = count - max(shared.values(), default=0)
        min_new_tokens = _MIN_NEW_TOKENS_ON_EXIT if on_exit else _WRITE_COST_FACTOR * restore_s / token_s
        if new_tokens < min_new_tokens or not _has_memory_for(size):
            return None
        prefixes = [stored for stored, known in shared.items() if known == stored.header.token_count < count]
        replaced = [one.file.path for one in prefixes if one.file.conversation_key == conversation_key]
        total = file_format.max_file_size(count, size)
        if not self._store.evict(total, replaced):
            return None
        part_path = self._store.make_partial_path(self._key, conversation_key, count * token_s)
        try:
            payload = (ctypes.c_uint8 * size)()
            # At its full size, so that other engines which evict at the same time count it.
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
        return partial(self._write_snapshot, part_path, file, header, payload, last_used_ns, replaced)

    def _write_snapshot(
        self, part_path: Path, file: BinaryIO, header: KvFileHeader, payload: Any, used_ns: int, replaced: list[Path]
    ) -> None:
        header = msgspec.structs.replace(header, sha256=hashlib.sha256(payload).hexdigest())
        try:
            file_format.write_file(file, header, payload)
        except OSError:
            _remove_file(part_path)
            return
        self._publish(part_path, part_path.with_suffix(COMPLETE_SUFFIX), header.owner, used_ns)
        for path in replaced:
            _remove_file(path)

    def _publish(self, path: Path, final_path: Path, conversation_key: str, last_used_ns: int) -> None:
        """Give a complete file its name, unless its conversation was deleted meanwhile."""
        assert self._store is not None
        with contextlib.suppress(OSError):
            path.rename(final_path)
            if self._store.was_deleted_since(conversation_key, last_used_ns):
                final_path.unlink()


def _has_memory_for(size: int) -> bool:
    """Return True if a copy of that many bytes leaves the machine enough memory."""
    if size < _LARGE_COPY_BYTES:
        return True
    from phichat.engine.planner.hardware import probe_memory

    return probe_memory().available > 2 * size


def _remove_file(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
