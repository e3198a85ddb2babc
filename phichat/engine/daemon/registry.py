"""Addresses of daemons: files in a folder that only its owner can enter, with a name for each daemon."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import astuple, dataclass
from pathlib import Path

from phichat import __version__
from phichat.cancel import CancelToken
from phichat.config.settings import EngineOptions
from phichat.engine.ipc import protocol
from phichat.storage.file_lock import lock_file
from phichat.storage.fingerprint import compute_fingerprint

_MAX_SOCKET_PATH_BYTES = 100
"""Systems allow 104 to 108, with the zero at the end."""

_RELEVANT_ENV_PREFIXES = ("CUDA_", "GGML_", "GOMP_", "HIP_", "HSA_", "KMP_", "LLAMA_", "METAL_", "OMP_", "ROCR_", "VK_")
"""Prefixes of environment variables that change how llama.cpp computes."""


@dataclass(frozen=True, slots=True)
class DaemonAddress:
    """Address of one daemon. stem: path of its files without suffix."""

    stem: Path

    @property
    def socket_path(self) -> str:
        """Path of its socket, or name of its pipe on Windows."""
        return rf"\\.\pipe\phichat-{self.stem.name}" if sys.platform == "win32" else f"{self.stem}.sock"

    @property
    def log_path(self) -> Path:
        """File with its stderr."""
        return self.stem.with_suffix(".log")

    @property
    def key_path(self) -> Path:
        """File with the secret of its clients, where the system does not report the user of a peer (Windows)."""
        return self.stem.with_suffix(".key")

    def remove_files(self) -> None:
        """Remove the files of a daemon that has ended. Raises OSError."""
        for file in (self.key_path, self.log_path, self.stem.with_suffix(".sock")):
            file.unlink(missing_ok=True)

    def lock(self, cancel: CancelToken | None = None, timeout_s: float = 5.0) -> AbstractContextManager[bool]:
        """Exclude other processes from starting a daemon at this address or removing its files; see `lock_file`."""
        # A lock is held while a socket is made and a process started.
        return lock_file(self.stem.with_suffix(".lock"), timeout_s, cancel)


@dataclass(frozen=True, slots=True)
class DaemonRegistry:
    """Daemons of one cache folder. folder: of their addresses. prefix: of their names."""

    folder: Path
    prefix: str

    @classmethod
    def for_cache(cls, cache_dir: Path, environ: Mapping[str, str] = os.environ) -> DaemonRegistry | None:
        """Return the registry for a cache folder, None where no folder is safe."""
        # With the version, clients never contact a daemon that does not understand them.
        prefix = hashlib.sha256(b"%d %b" % (protocol.PROTOCOL_VERSION, os.fsencode(cache_dir))).hexdigest()[:8]
        for folder in _list_candidate_dirs(cache_dir, environ):
            path_bytes = len(os.fsencode(folder)) + len("/.sock") + 2 * 8 + 9
            if (sys.platform == "win32" or path_bytes <= _MAX_SOCKET_PATH_BYTES) and _ensure_private_dir(folder):
                return cls(folder, prefix)
        return None

    def make_address(self, path: Path, options: EngineOptions) -> DaemonAddress:
        """Return the address of the daemon for a file loaded with these options by the library, the program and the
        environment of this process.

        Raises OSError when the file does not exist.
        """
        settings = sorted((key, value) for key, value in os.environ.items() if key.startswith(_RELEVANT_ENV_PREFIXES))
        cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else []
        program = [compute_fingerprint(file) for file in list_program_files()]
        program_key = (__version__, sys.executable, program, settings, cores)
        key_text = repr((str(path.resolve(strict=True)), astuple(options), program_key))
        return DaemonAddress(self.folder / f"{self.prefix}-{hashlib.sha256(os.fsencode(key_text)).hexdigest()[:16]}")

    def list_addresses(self) -> list[DaemonAddress]:
        """Return the addresses of daemons that run, or that died and left files."""
        suffix = ".key" if sys.platform == "win32" else ".sock"
        return [DaemonAddress(file.with_suffix("")) for file in sorted(self.folder.glob(f"{self.prefix}-*{suffix}"))]


def list_program_files() -> list[str]:
    """Return files that change when phichat or llama-cpp-python is updated."""
    import importlib.util

    library = importlib.util.find_spec("llama_cpp")
    return [protocol.__file__, *([library.origin] if library and library.origin else [])]


def _list_candidate_dirs(cache_dir: Path, environ: Mapping[str, str]) -> Iterator[Path]:
    if sys.platform != "win32":
        if (runtime := environ.get("XDG_RUNTIME_DIR")) and _is_private(Path(runtime)):
            yield Path(runtime, "phichat")
    yield cache_dir / "engines"
    if sys.platform != "win32":
        import tempfile

        yield Path(tempfile.gettempdir(), f"phichat-{os.geteuid()}")


def _is_private(folder: Path) -> bool:
    """Return whether this is a real folder that only this user can enter."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    is_ours = sys.platform == "win32" or (status.st_uid == os.geteuid() and not status.st_mode & 0o077)
    return stat.S_ISDIR(status.st_mode) and is_ours


def _ensure_private_dir(folder: Path) -> bool:
    """Create a folder that only this user can enter, and return whether it is one."""
    with contextlib.suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(mode=0o700)
    return _is_private(folder)
