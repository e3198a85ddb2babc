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

_REDUNDANT_AFFIX = re.compile(r"(?:python|py)-(?P<after>.+)|(?P<before>.+)-(?:python|py|lib|package|module)")

_KEYBOARD_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")

_SOUND_ALIKE = ("aeiouy", "sz", "ck", "bp", "dt", "fv", "mn", "gj", "vw")

_COMMON_RANK, _UNLISTED_RANK = 1500, 10**6
"""Ranks: of names that everybody knows, of those that are on no list."""

_MAX_RANK_BY_LENGTH = {4: 700, 5: _COMMON_RANK, 6: 4000, 7: 10_000}
"""How popular a name of so many letters is at least that another is taken for a misspelling of."""

_MAX_NAME_LENGTH = 60
"""No popular name has more letters."""

_HASH_COUNT = 6


def normalize_name(name: str) -> str:
    """The name by which an index compares it: `Zope.Interface` and `zope_interface` are `zope-interface`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def to_latin(name: str) -> str:
    """The name in the Latin letters it looks like."""
    if name.isascii():
        return name.lower()
    import unicodedata  # for one name in a million

    return unicodedata.normalize("NFKC", name).lower().translate(_LOOK_ALIKES)


@dataclass(frozen=True, slots=True)
class TypoIndex:
    """The names that one may be a misspelling of."""

    ranks: Mapping[str, int]
    unseparated: Mapping[str, str]
    """From names without separators to the names, the most popular of each."""
    deletion_index: Container[str]
    """The names, whole and with a letter left out: what is near one shares one of these with it."""
    existing_names: Container[str]
    """Names that are like one of these by chance: they exist themselves."""

    @classmethod
    def from_names(
        cls, ranked_names: list[str], deletion_index: Container[str], existing_names: Container[str]
    ) -> TypoIndex:
        """likely: normalised, the most popular first."""
        ranks = {name: rank for rank, name in enumerate(ranked_names)}
        squashes = {name.replace("-", ""): name for name in reversed(ranked_names) if "-" in name}
        return cls(ranks, squashes, deletion_index, existing_names)

    def correct_typo(self, name: str) -> str:
        """The name that another is or is a misspelling of, the most popular of those that fingers slip from, else of
        all; "" when there is none. name: normalised."""
        if name in self.ranks:
            return name
        look_alike = name.replace("rn", "m").replace("vv", "w").replace("0", "o").replace("1", "l")
        joined = name.replace("-", "")
        candidates = [
            candidate for candidate in (look_alike, joined, self.unseparated.get(joined, "")) if candidate in self.ranks
        ]
        if affix := _REDUNDANT_AFFIX.fullmatch(name):
            inner = affix["after"] or affix["before"]
            candidates += [inner] if self.ranks.get(inner, _UNLISTED_RANK) < _COMMON_RANK else []
        if len(name) <= _MAX_NAME_LENGTH and any(
            deletion in self.deletion_index for deletion in (name, *iter_deletions(name))
        ):
            candidates += [
                like for like in iter_edits(name) if _is_likely_typo(name, like, self.ranks.get(like, _UNLISTED_RANK))
            ]
        return min(candidates, key=lambda like: (not is_plausible_typo(name, like), self.ranks[like]), default="")

    def is_known(self, name: str) -> bool:
        return name in self.existing_names or normalize_name(name) in self.existing_names


def iter_deletions(name: str) -> Iterator[str]:
    """The name with one of its letters left out."""
    return (name[:index] + name[index + 1 :] for index in range(len(name)))


def iter_edits(name: str) -> Iterator[str]:
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


def is_plausible_typo(name: str, intended: str) -> bool:
    """Whether fingers or ears make that edit by themselves: a swap, a double, a neighbouring key, a letter lost inside.

    In a name of four letters only a swap or a double counts; the first letter is hardly ever wrong otherwise."""
    if _is_swap_or_doubling(name, intended):
        return True
    index = _find_first_difference(name, intended)
    if not 0 < index < min(len(name), len(intended)):
        return False
    if len(name) == len(intended):
        return (
            len(intended) > 4
            and name[index + 1 :] == intended[index + 1 :]
            and _are_confusable(name[index], intended[index])
        )
    longer, shorter = (name, intended) if len(name) > len(intended) else (intended, name)
    return len(intended) > 5 and longer[index].isalpha() and longer[index + 1 :] == shorter[index:]


@dataclass(frozen=True, slots=True)
class BloomFilter:
    """A set of names that finds all that were put in, and some that were not: 2 in 100 with 8 bits a name, with 16
    one in 1000."""

    bits: bytes

    @classmethod
    def from_names(cls, names: Iterable[str], *, bytes_per_name: int) -> BloomFilter:
        names = list(names)
        bits = bytearray(len(names) * bytes_per_name + 1)
        for name in names:
            for position in _bit_positions(name, len(bits) * 8):
                bits[position // 8] |= 1 << position % 8
        return cls(bytes(bits))

    def __contains__(self, name: object) -> bool:
        return all(
            self.bits[position // 8] >> position % 8 & 1 for position in _bit_positions(str(name), len(self.bits) * 8)
        )


def _bit_positions(name: str, size: int) -> Iterator[int]:
    hash_value = (zlib.crc32(name.encode(errors="surrogatepass")) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    first, step = hash_value >> 32, hash_value & 0xFFFFFFFF | 1
    return ((first + probe * step) % size for probe in range(_HASH_COUNT))


def _is_likely_typo(name: str, candidate: str, rank: int) -> bool:
    """Whether such a name, that near, is a misspelling rather than a chance: short and rare names have many near."""
    if rank == _UNLISTED_RANK or len(candidate) < 4:
        return False
    if name[:1] != candidate[:1] and sorted(name[:2]) != sorted(candidate[:2]) and rank >= _COMMON_RANK:
        return False
    max_rank = _MAX_RANK_BY_LENGTH.get(len(candidate), _UNLISTED_RANK)
    return rank < (
        max_rank
        if not _is_swap_or_doubling(name, candidate)
        else _MAX_RANK_BY_LENGTH.get(len(candidate) + 2, _UNLISTED_RANK)
    )


def _is_swap_or_doubling(name: str, intended: str) -> bool:
    """Whether two letters changed places, or one stands twice in one of the names and once in the other."""
    index = _find_first_difference(name, intended)
    if len(name) == len(intended):
        swapped = intended[:index] + intended[index : index + 2][::-1] + intended[index + 2 :]
        return name == swapped
    longer, shorter = (name, intended) if len(name) > len(intended) else (intended, name)
    return index > 0 and longer[index] == longer[index - 1] and longer[:index] + longer[index + 1 :] == shorter


def _find_first_difference(one: str, other: str) -> int:
    return next(
        (index for index, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _are_confusable(one: str, other: str) -> bool:
    """Whether two letters lie side by side on a keyboard or sound alike."""
    return any(one + other in row or other + one in row for row in _KEYBOARD_ROWS) or any(
        one in group and other in group for group in _SOUND_ALIKE
    )
