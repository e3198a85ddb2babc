"""Damage in an installed model file: how much of it `phichat verify` and the next load find.

    python stress/model_file_damage.py [--times 200] [--seed 1]

A file as the hub's cache holds it, and one that was linked, are damaged in turn: a bit flipped anywhere, a
block overwritten, or the end cut off, by one byte at the least, the modification time set back each time. Each
damage is looked for by the check that comes before a load, then by `verify`, then the file is mended and both
have to pass. Nothing connects anywhere: a socket for a network ends the run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import socket
import sys
import tempfile
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1] / "benchmarks"))

from common import say, verdict

from phichat.cancel import CancelToken
from phichat.errors import ModelFileError
from phichat.models.local.discovery import ModelFile
from phichat.models.local.links import Link, LinkStore
from phichat.models.local.local_models import LocalModels
from phichat.models.local.verification import LoadVerifier, VerifyResult, verify_model
from phichat.paths import Paths


def offline(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook."""
    if event == "socket.__new__" and arguments[1] in (socket.AF_INET, socket.AF_INET6):
        raise SystemExit("a network socket was opened")


def load_passes(model: ModelFile, library: LocalModels) -> bool:
    """Whether the check before a load lets the file pass."""
    try:
        for _ in LoadVerifier(model, library.hash_cache).check(CancelToken()):
            pass
    except ModelFileError:
        return False
    return True


def verify_passes(model: ModelFile, library: LocalModels) -> bool:
    """Whether `verify` does."""
    steps = verify_model(model, library.hash_cache, CancelToken())
    return any(isinstance(step, VerifyResult) and step.ok for step in steps)


def damage(path: Path, source: random.Random) -> str:
    """Change the file, and tell how."""
    before = path.stat()
    kind = source.choice(["flip", "flip", "block", "truncation"])
    with path.open("r+b") as file:
        at = source.randrange(before.st_size)
        match kind:
            case "flip":
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes([byte ^ 1 << source.randrange(8)]))
            case "block":
                file.seek(at // 4096 * 4096)
                was = file.read(4096)
                file.seek(at // 4096 * 4096)
                file.write(bytes(byte ^ 0xFF for byte in was))
            case _:
                file.truncate(before.st_size - 1 if source.random() < 0.5 else at)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return kind


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--times", type=int, default=200)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    sys.addaudithook(offline)
    good = LocalModels.from_paths(Paths.from_environment()).resolve_model("smollm2-135m").path
    digest = hashlib.sha256(good.read_bytes()).hexdigest()
    with tempfile.TemporaryDirectory(prefix="phichat-damage-") as home:
        environ = {"PHICHAT_HOME": home, "HOME": home, "HF_HUB_CACHE": f"{home}/hub"}
        paths = Paths.from_environment(environ)
        repository = Path(home, "hub", "models--a--b")
        blob, link = repository / "blobs" / digest, repository / "snapshots" / ("a" * 40) / "x.gguf"
        for path in (blob, link):
            path.parent.mkdir(parents=True)
        linked = Path(home, "mine.gguf")
        shutil.copy(good, blob)
        shutil.copy(good, linked)
        link.symlink_to(blob)
        LinkStore(paths.links_file).add_link(Link("mine", linked, (digest,)))
        library = LocalModels.from_paths(paths, environ)
        models = [library.resolve_model("a/b"), library.resolve_model("mine")]
        by_load = by_verify = wronged = 0
        source = random.Random(given.seed)
        for turn in range(given.times):
            model = models[turn % 2]
            if not load_passes(model, library):
                wronged += 1
            kind = damage(model.path.resolve(), source)
            found_by_load, found_by_verify = not load_passes(model, library), not verify_passes(model, library)
            by_load, by_verify = by_load + found_by_load, by_verify + found_by_verify
            if not (found_by_load and found_by_verify):
                say(f"turn {turn}: a {kind} of {model.name} was missed")
            shutil.copyfile(good, model.path.resolve())
            wronged += not verify_passes(model, library)
    say(f"{given.times} times damaged: {by_load} found by the next load, {by_verify} by verify; {wronged} false alarms")
    verdict("share found both ways", min(by_load, by_verify) / given.times, 1.0)


if __name__ == "__main__":
    main()
