"""When a name is likely a misspelling of another: one edit, look-alike letters, separators, a needless `python-`.

Names are compared normalised (PEP 503). Ranks count from 0, the most downloaded; a name is a misspelling only of
one that is popular enough for its length, since most short names are one letter away from some other's.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-"

_LOOK_ALIKES = str.maketrans("авсԁеһіјӏорԛѕԝхуκνοαρτıɡ", "abcdehijlopqswxykvoaptig")
"""Cyrillic and Greek letters that are drawn like Latin ones; what compatibility forms stand for is Unicode's to say."""

_NEEDLESS = re.compile(r"(?:python|py)-(?P<after>.+)|(?P<before>.+)-(?:python|py|lib|package|module)")

_NEIGHBOURS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")

_SOUND_ALIKE = ("aeiouy", "sz", "ck", "bp", "dt", "fv", "mn", "gj", "vw")

_COMMON, _RARE = 1500, 10**6
"""Ranks: of names that everybody knows, of those that are on no list."""

_RAREST_OF_LENGTH = {4: 700, 5: _COMMON, 6: 4000, 7: 10_000}
"""How popular a name of so many letters is at least that another is taken for a misspelling of."""

_LONGEST = 60
"""No popular name has more letters."""

_PROBES = 6


def normalised(name: str) -> str:
    """The name by which an index compares it: `Zope.Interface` and `zope_interface` are `zope-interface`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def plain(name: str) -> str:
    """The name in the Latin letters it looks like."""
    if name.isascii():
        return name.lower()
    import unicodedata  # for one name in a million

    return unicodedata.normalize("NFKC", name).lower().translate(_LOOK_ALIKES)


@dataclass(frozen=True, slots=True)
class Likenesses:
    """The names that one may be a misspelling of."""

    ranks: Mapping[str, int]
    squashes: Mapping[str, str]
    """From names without separators to the names, the most popular of each."""
    cuts: Container[str]
    """The names, whole and with a letter left out: what is near one shares one of these with it."""
    existing: Container[str]
    """Names that are like one of these by chance: they exist themselves."""

    @classmethod
    def of(cls, likely: list[str], cuts: Container[str], existing: Container[str]) -> Likenesses:
        """likely: normalised, the most popular first."""
        ranks = {name: rank for rank, name in enumerate(likely)}
        squashes = {name.replace("-", ""): name for name in reversed(likely) if "-" in name}
        return cls(ranks, squashes, cuts, existing)

    def meant_by(self, name: str) -> str:
        """The name that another is or is a misspelling of, the most popular of those that fingers slip from, else of
        all; "" when there is none. name: normalised."""
        if name in self.ranks:
            return name
        drawn = name.replace("rn", "m").replace("vv", "w").replace("0", "o").replace("1", "l")
        squash = name.replace("-", "")
        candidates = [like for like in (drawn, squash, self.squashes.get(squash, "")) if like in self.ranks]
        if needless := _NEEDLESS.fullmatch(name):
            inner = needless["after"] or needless["before"]
            candidates += [inner] if self.ranks.get(inner, _RARE) < _COMMON else []
        if len(name) <= _LONGEST and any(cut in self.cuts for cut in (name, *shortened(name))):
            candidates += [like for like in variants(name) if _is_telling(name, like, self.ranks.get(like, _RARE))]
        return min(candidates, key=lambda like: (not is_slip(name, like), self.ranks[like]), default="")

    def is_excused(self, name: str) -> bool:
        return name in self.existing or normalised(name) in self.existing


def shortened(name: str) -> Iterator[str]:
    """The name with one of its letters left out."""
    return (name[:index] + name[index + 1 :] for index in range(len(name)))


def variants(name: str) -> Iterator[str]:
    """What one edit makes of a name: a letter more, less or other, or two neighbours swapped."""
    for index in range(len(name) + 1):
        before, after = name[:index], name[index:]
        for letter in _ALPHABET:
            yield before + letter + after
        if not after:
            return
        yield before + after[1:]
        if len(after) > 1 and after[0] != after[1]:
            yield before + after[1] + after[0] + after[2:]
        for letter in _ALPHABET:
            if letter != after[0]:
                yield before + letter + after[1:]


def is_slip(name: str, meant: str) -> bool:
    """Whether fingers or ears make that edit by themselves: a swap, a double, a neighbouring key, a letter lost inside.

    In a name of four letters only a swap or a double counts; the first letter is hardly ever wrong otherwise."""
    if _is_swap_or_double(name, meant):
        return True
    index = _first_difference(name, meant)
    if not 0 < index < min(len(name), len(meant)):
        return False
    if len(name) == len(meant):
        return len(meant) > 4 and name[index + 1 :] == meant[index + 1 :] and _are_neighbours(name[index], meant[index])
    longer, shorter = (name, meant) if len(name) > len(meant) else (meant, name)
    return len(meant) > 5 and longer[index].isalpha() and longer[index + 1 :] == shorter[index:]


@dataclass(frozen=True, slots=True)
class BloomFilter:
    """A set of names that finds all that were put in, and some that were not: 2 in 100 with 8 bits a name, with 16
    one in 1000."""

    bits: bytes

    @classmethod
    def of(cls, names: Iterable[str], *, bytes_a_name: int) -> BloomFilter:
        names = list(names)
        bits = bytearray(len(names) * bytes_a_name + 1)
        for name in names:
            for place in _places(name, len(bits) * 8):
                bits[place // 8] |= 1 << place % 8
        return cls(bytes(bits))

    def __contains__(self, name: object) -> bool:
        return all(self.bits[place // 8] >> place % 8 & 1 for place in _places(str(name), len(self.bits) * 8))


def _places(name: str, size: int) -> Iterator[int]:
    mixed = (zlib.crc32(name.encode(errors="surrogatepass")) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    first, step = mixed >> 32, mixed & 0xFFFFFFFF | 1
    return ((first + probe * step) % size for probe in range(_PROBES))


def _is_telling(name: str, like: str, rank: int) -> bool:
    """Whether such a name, that near, is a misspelling rather than a chance: short and rare names have many near."""
    if rank == _RARE or len(like) < 4:
        return False
    if name[:1] != like[:1] and sorted(name[:2]) != sorted(like[:2]) and rank >= _COMMON:
        return False
    most = _RAREST_OF_LENGTH.get(len(like), _RARE)
    return rank < (most if not _is_swap_or_double(name, like) else _RAREST_OF_LENGTH.get(len(like) + 2, _RARE))


def _is_swap_or_double(name: str, meant: str) -> bool:
    """Whether two letters changed places, or one stands twice in one of the names and once in the other."""
    index = _first_difference(name, meant)
    if len(name) == len(meant):
        swapped = meant[:index] + meant[index : index + 2][::-1] + meant[index + 2 :]
        return name == swapped
    longer, shorter = (name, meant) if len(name) > len(meant) else (meant, name)
    return index > 0 and longer[index] == longer[index - 1] and longer[:index] + longer[index + 1 :] == shorter


def _first_difference(one: str, other: str) -> int:
    return next(
        (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _are_neighbours(one: str, other: str) -> bool:
    """Whether two letters lie side by side on a keyboard or sound alike."""
    return any(one + other in row or other + one in row for row in _NEIGHBOURS) or any(
        one in group and other in group for group in _SOUND_ALIKE
    )
