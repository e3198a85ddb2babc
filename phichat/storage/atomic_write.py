"""Replace a file in one step."""

import os
from errno import EINVAL
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step, readable by its owner only. Raises OSError; the old file is then unchanged."""
    if "\0" in str(path):
        raise OSError(EINVAL, os.strerror(EINVAL), str(path))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Named as tempfile would name it; importing that module takes 5 ms.
    part = path.parent / f".{path.name}.{os.urandom(4).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(part, flags, 0o600), "wb") as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            file.close()
            part.replace(path)
        except OSError:
            file.close()
            part.unlink()
            raise
