"""Layout of the hub's cache, and the names of GGUF files."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

QUANTIZATION_SUFFIX = re.compile(r"(?i)(?:^|[-._/])((?:UD-)?I?Q\d\w*|TQ\d_\d|(?:MX|NV)FP4\w*|BF16|FP?16|FP?32)$")
"""The quantization at the end of a file name without its suffix, as publishers write it."""
SPLIT_SUFFIX = re.compile(r"-(\d{5})-of-(\d{5})$")


def model_stem(path: Path) -> str:
    """Return the name of a file without `.gguf` and without its part number."""
    return SPLIT_SUFFIX.sub("", path.stem)


def parse_quantization(file_name: str) -> str:
    """Return the quantization in the name or path of a GGUF file, in upper case; "" if there is none."""
    match = QUANTIZATION_SUFFIX.search(SPLIT_SUFFIX.sub("", re.sub(r"(?i)\.gguf$", "", file_name)))
    return match[1].upper() if match else ""


def repository_folder(cache: Path, repository: str) -> Path:
    """Return the folder of a repository in the hub's cache."""
    return cache / ("models--" + repository.replace("/", "--"))


def iter_repositories(cache: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name and the folder of each repository in the hub's cache."""
    for folder in list_subfolders(cache):
        if folder.name.startswith("models--"):
            yield folder.name.removeprefix("models--").replace("--", "/", 1), folder


def list_subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted; [] if it cannot be read."""
    with suppress(OSError):
        return sorted(path for path in folder.iterdir() if path.is_dir())
    return []


def file_size(path: Path) -> int:
    """Return the size in bytes, 0 if there is no such file."""
    with suppress(OSError):
        return path.stat().st_size
    return 0
