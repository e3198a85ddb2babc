"""When a name is likely a misspelling of another: one edit, look-alike letters, separators, a needless `python-`.

Names are compared normalised (PEP 503). Ranks count from 0, the most downloaded; a name is a misspelling only of
one that is popular enough for its length, since most short names are one letter away from some other's.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-"

_LOOK_ALIKES = str.maketrans("авсԁеһіјӏорԛѕԝхуκνοαρτıɡ", "abcdehijlopqswxykvoaptig")
"""Cyrillic and Greek letters that are drawn like Latin ones; what compatibility forms stand for is Unicode's to say."""

_NEEDLESS = re.compile(r"(?:python|py)-(?P<after>.+)|(?P<before>.+)-(?:python|py|lib|package|module)")

_NEIGHBOURS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")

_SOUND_ALIKE = ("iy", "sz", "ck")

_BITS_A_NAME, _PROBES = 10, 7
"""One name in a hundred that was never put in is found all the same."""


def normalised(name: str) -> str:
    """The name by which an index compares it: `Zope.Interface` and `zope_interface` are `zope-interface`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def squashed(name: str) -> str:
    return name.replace("-", "")


def plain(name: str) -> str:
    """The name in the Latin letters it looks like."""
    return unicodedata.normalize("NFKC", name).lower().translate(_LOOK_ALIKES)


def misspelt(name: str, ranks: Mapping[str, int], squashes: Mapping[str, str]) -> str:
    """The most popular name that a normalised one, itself not among them, is a misspelling of; "" when none is.

    squashes: from names without separators to the names.
    """
    candidates = [like for like in variants(name) if like in ranks and _is_telling(name, like, ranks[like])]
    drawn = name.replace("rn", "m").replace("vv", "w").replace("0", "o").replace("1", "l")
    candidates += [like for like in (drawn, squashes.get(squashed(name), "")) if like in ranks]
    if needless := _NEEDLESS.fullmatch(name):
        inner = needless["after"] or needless["before"]
        candidates += [inner] if ranks.get(inner, 10**6) < 1000 else []
    return min(candidates, key=ranks.__getitem__, default="")


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
    """Whether fingers make that edit by themselves: a swap, a letter doubled or lost inside, a neighbouring key.

    In a name of four letters only a swap or a double counts."""
    if len(name) == len(meant):
        wrong = [index for index in range(len(name)) if name[index] != meant[index]]
        if len(wrong) == 2 and name[wrong[0]] == meant[wrong[1]] and name[wrong[1]] == meant[wrong[0]]:
            return True
        return len(meant) > 4 and len(wrong) == 1 and wrong[0] > 0 and _are_neighbours(name[wrong[0]], meant[wrong[0]])
    longer, shorter = (name, meant) if len(name) > len(meant) else (meant, name)
    doubled = any(
        longer[index] == longer[index - 1] and longer[:index] + longer[index + 1 :] == shorter
        for index in range(1, len(longer))
    )
    lost_inside = len(meant) > 5 and longer == meant and longer[0] == shorter[0] and longer[-1] == shorter[-1]
    return len(longer) == len(shorter) + 1 and (doubled or lost_inside)


@dataclass(frozen=True, slots=True)
class BloomFilter:
    """A set of names that may find one that was never put in, and finds all that were."""

    bits: bytes

    @classmethod
    def of(cls, names: Iterable[str]) -> BloomFilter:
        names = list(names)
        bits = bytearray(len(names) * _BITS_A_NAME // 8 + 1)
        for name in names:
            for place in _places(name, len(bits) * 8):
                bits[place // 8] |= 1 << place % 8
        return cls(bytes(bits))

    def __contains__(self, name: str) -> bool:
        return all(self.bits[place // 8] >> place % 8 & 1 for place in _places(name, len(self.bits) * 8))


def _places(name: str, size: int) -> list[int]:
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    first, step = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big") | 1
    return [(first + probe * step) % size for probe in range(_PROBES)]


def _is_telling(name: str, like: str, rank: int) -> bool:
    """Whether such a name, that near, is a misspelling rather than a chance: short and rare names have many near."""
    if name[:1] != like[:1] and sorted(name[:2]) != sorted(like[:2]) and rank >= 1000:
        return False
    match len(like):
        case 0 | 1 | 2 | 3:
            return False
        case 4:
            return rank < 300
        case 5:
            return rank < 1000
        case 6:
            return rank < 3000
        case 7:
            return rank < 8000
        case _:
            return True


def _are_neighbours(one: str, other: str) -> bool:
    return any(one + other in row or other + one in row for row in (*_NEIGHBOURS, *_SOUND_ALIKE))
