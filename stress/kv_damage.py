"""Damaged files of saved KV caches: none may be used, and none may end the engine.

An engine finds nothing but damaged states of the conversation that it is asked to go on with. It has to read
everything again, answer as it does without them, and leave none behind. The last kinds of damage have correct
checksums, which no disk and no kill does; llama.cpp may end the engine on them, and the next one has to go on.

    python stress/kv_damage.py MODEL.gguf [--files 1000] [--at-once 50]
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1] / "benchmarks"))

from common import say
from kv_engine import ask_engine, engine_keeping
from msgspec.structs import replace

from phichat.engine.kv_store import COMPLETE_SUFFIX, KvStore
from phichat.engine.worker.kv_cache.file_format import (
    KvFileHeader,
    create_file,
    map_payload,
    read_header,
    write_file,
)
from phichat.errors import EngineCrashed
from phichat.types import Message, Role

_ASKED = [Message(Role.USER, "The ship sailed to the end of the sea, and nobody knew why it did. " * 12 + "Who knew?")]


def main() -> None:
    """Damage, ask and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=50)
    given = parser.parse_args()
    chance = random.Random(1)
    tried: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    deaths: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="phichat-benchmark-") as name:
        folder = Path(name)
        with engine_keeping(given.model, folder, folder / "good") as engine:
            expected = ask_engine(engine, _ASKED, 8).text
        (good,) = (file.path for file in KvStore(folder / "good").list_files())
        kinds = [*_BLIND.items(), *((name, _signed(damage)) for name, damage in _SIGNED.items())]
        while sum(tried.values()) < given.files:
            kind, damage = kinds[len(tried) % len(kinds)] if len(tried) < len(kinds) else chance.choice(kinds)
            count = min(given.at_once, given.files - sum(tried.values()))
            tried[kind] += count
            for number in range(count):
                path = folder / "bad" / f"{good.name[: -len(COMPLETE_SUFFIX) - 8]}{number:08x}{COMPLETE_SUFFIX}"
                path.parent.mkdir(exist_ok=True)
                shutil.copyfile(good, path)
                damage(path, chance)
            wrong[kind] += _used(given.model, folder, expected, deaths, kind)
            shutil.rmtree(folder / "bad")
    for kind, count in tried.items():
        say(f"{kind:<34}{count:5} files, {wrong[kind]} used or left, {deaths[kind]} engines died")
    say(f"{sum(tried.values())} files, {sum(wrong.values())} used or left, {sum(deaths.values())} engines died")
    if sum(wrong.values()):
        raise SystemExit(1)


def _used(model: Path, folder: Path, expected: str, deaths: Counter[str], kind: str) -> int:
    """How many of the damaged states were used, or left where they would be tried again."""
    while True:
        with engine_keeping(model, folder, folder / "bad") as engine:
            try:
                answer = ask_engine(engine, _ASKED, 8, owner="")
            except EngineCrashed:
                deaths[kind] += 1
                continue
            wrong = answer.text != expected or answer.usage.cached_tokens > 0
            return int(wrong) + sum(
                file.path.suffix == COMPLETE_SUFFIX for file in KvStore(folder / "bad").list_files()
            )


Damage = Callable[[Path, random.Random], None]


def _flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    # As often in the head, which is small, as in the payload.
    at = chance.randrange(1500 if chance.random() < 0.5 else len(content))
    content[at] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def _cut(path: Path, chance: random.Random) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(chance.choice((0, chance.randrange(1500), chance.randrange(size), size - 1)))


def _lengthen(path: Path, chance: random.Random) -> None:
    with path.open("ab") as file:
        file.write(chance.randbytes(chance.randrange(1, 5000)))


def _blank(path: Path, chance: random.Random) -> None:
    """Pages that were never written, as after a power cut."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(chance.randrange(size // 4096) * 4096)
        file.write(bytes(4096))


def _garbage(path: Path, chance: random.Random) -> None:
    path.write_bytes(chance.randbytes(chance.choice((1, 30, 1000, 1_000_000))))


def _spliced(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    at = chance.randrange(len(content))
    path.write_bytes(content[at:] + content[:at])


def _signed(damage: Callable[[KvFileHeader, bytes, random.Random], tuple[KvFileHeader, bytes]]) -> Damage:
    """The damage with the checksums of what is there then."""

    def done(path: Path, chance: random.Random) -> None:
        with path.open("rb") as file:
            head = read_header(file)
            payload = bytes(map_payload(file, head))
        head, payload = damage(head, payload, chance)
        path.unlink()
        write_file(
            create_file(path, 0),
            replace(head, payload=len(payload), sha256=hashlib.sha256(payload).hexdigest()),
            payload,
        )

    return done


def _noise(head: KvFileHeader, payload: bytes, chance: random.Random) -> tuple[KvFileHeader, bytes]:
    content = bytearray(payload)
    content[:64] = chance.randbytes(64)
    return head, bytes(content)


_BLIND: Mapping[str, Damage] = {
    "a bit flipped": _flip,
    "cut off": _cut,
    "more at the end": _lengthen,
    "a page of zeros": _blank,
    "something else": _garbage,
    "two parts exchanged": _spliced,
}

_SIGNED: Mapping[str, Callable[[KvFileHeader, bytes, random.Random], tuple[KvFileHeader, bytes]]] = {
    "signed: another key": lambda head, payload, chance: (replace(head, key="0" * 64), payload),
    "signed: another owner": lambda head, payload, chance: (replace(head, owner="other"), payload),
    "signed: a token less": lambda head, payload, chance: (replace(head, tokens=head.tokens[:-4]), payload),
    "signed: half the payload": lambda head, payload, chance: (head, payload[: len(payload) // 2]),
    "signed: noise where sizes stand": _noise,
}


if __name__ == "__main__":
    main()
