"""Names of GGUF files that are parts of one model, as llama.cpp's gguf-split writes them."""

import re
from pathlib import Path

_SPLIT_NAME = re.compile(r"^(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf$")


def list_split_paths(path: Path) -> tuple[Path, ...]:
    """Return all files of the model that a file belongs to by its name, in order."""
    match = _SPLIT_NAME.match(path.name)
    if match is None or not 1 <= int(match["part"]) <= int(match["parts"]):
        return (path,)
    count = int(match["parts"])
    return tuple(path.with_name(f"{match['stem']}-{part:05d}-of-{count:05d}.gguf") for part in range(1, count + 1))
