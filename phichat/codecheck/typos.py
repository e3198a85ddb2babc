"""Detection of misspelt package names: one edit, look-alike letters, separators, a redundant `python-`.

Names are compared normalised (PEP 503). Ranks count from 0, the most downloaded. A name is taken for a misspelling
only of one that is popular enough for its length, since most short names are one letter away from another.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-"

_LOOK_ALIKES = str.maketrans("авсԁеһіјӏорԛѕԝхуκνοαρτıɡ", "abcdehijlopqswxykvoaptig")
"""Cyrillic and Greek letters that look like Latin ones; Unicode itself decomposes compatibility forms."""

_REDUNDANT_AFFIX = re.compile(r"(?:python|py)-(?P<after>.+)|(?P<before>.+)-(?:python|py|lib|package|module)")

_KEYBOARD_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")

_SOUND_ALIKE = ("aeiouy", "sz", "ck", "bp", "dt", "fv", "mn", "gj", "vw")

_COMMON_RANK, _UNLISTED_RANK = 1500, 10**6
"""Ranks of the best known names and of those on no list."""

_MAX_RANK_BY_LENGTH = {4: 700, 5: _COMMON_RANK, 6: 4000, 7: 10_000}
"""Lowest popularity, by length, of a name that another is taken for a misspelling of."""

_MAX_NAME_LENGTH = 60
"""No popular name is longer."""

_HASH_COUNT = 6


def normalize_name(name: str) -> str:
    """Return a name as package indexes compare it: `Zope.Interface` and `zope_interface` are `zope-interface`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def to_latin(name: str) -> str:
    """Return a name in the Latin letters it looks like."""
    if name.isascii():
        return name.lower()
    import unicodedata  # hardly ever needed

    return unicodedata.normalize("NFKC", name).lower().translate(_LOOK_ALIKES)


@dataclass(frozen=True, slots=True)
class TypoIndex:
    """Names that others may be misspellings of."""

    ranks: Mapping[str, int]
    unseparated: Mapping[str, str]
    """From names without separators to the most popular name of each."""
    deletion_index: Container[str]
    """The names, whole and with one letter left out: similar names share one of these."""
    existing_names: Container[str]
    """Existing names that resemble one of these by chance."""

    @classmethod
    def from_names(
        cls, ranked_names: list[str], deletion_index: Container[str], existing_names: Container[str]
    ) -> TypoIndex:
        """Build the index; ranked_names: normalised, the most popular first."""
        ranks = {name: rank for rank, name in enumerate(ranked_names)}
        unseparated = {name.replace("-", ""): name for name in reversed(ranked_names) if "-" in name}
        return cls(ranks, unseparated, deletion_index, existing_names)

    def correct_typo(self, name: str) -> str:
        """Return the name that a normalised name is or is a misspelling of, "" when there is none.

        Plausible typing errors come first, then the most popular.
        """
        if name in self.ranks:
            return name
        look_alike = name.replace("rn", "m").replace("vv", "w").replace("0", "o").replace("1", "l")
        joined = name.replace("-", "")
        candidates = [like for like in (look_alike, joined, self.unseparated.get(joined, "")) if like in self.ranks]
        if affix := _REDUNDANT_AFFIX.fullmatch(name):
            inner = affix["after"] or affix["before"]
            candidates += [inner] if self.ranks.get(inner, _UNLISTED_RANK) < _COMMON_RANK else []
        deletions = (name, *iter_deletions(name)) if len(name) <= _MAX_NAME_LENGTH else ()
        if any(deletion in self.deletion_index for deletion in deletions):
            ranked = ((like, self.ranks.get(like, _UNLISTED_RANK)) for like in iter_edits(name))
            candidates += [like for like, rank in ranked if _is_likely_typo(name, like, rank)]
        return min(candidates, key=lambda like: (not is_plausible_typo(name, like), self.ranks[like]), default="")

    def is_known(self, name: str) -> bool:
        """Return True for a name that exists itself."""
        return name in self.existing_names or normalize_name(name) in self.existing_names


def iter_deletions(name: str) -> Iterator[str]:
    """Yield the name with one of its letters left out."""
    return (name[:index] + name[index + 1 :] for index in range(len(name)))


def iter_edits(name: str) -> Iterator[str]:
    """Yield the results of one edit: a letter added, removed or changed, or two neighbours swapped."""
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
    """Return True for a common slip: letters swapped or doubled, a neighbouring key, a letter lost inside.

    In a name of four letters only a swap or a double counts; the first letter is hardly ever wrong otherwise.
    """
    if _is_swap_or_doubling(name, intended):
        return True
    index = _find_first_difference(name, intended)
    if not 0 < index < min(len(name), len(intended)):
        return False
    if len(name) == len(intended):
        same_rest = name[index + 1 :] == intended[index + 1 :]
        return len(intended) > 4 and same_rest and _are_confusable(name[index], intended[index])
    longer, shorter = (name, intended) if len(name) > len(intended) else (intended, name)
    return len(intended) > 5 and longer[index].isalpha() and longer[index + 1 :] == shorter[index:]


@dataclass(frozen=True, slots=True)
class BloomFilter:
    """Set of names with false positives: 2 in 100 at 8 bits per name, 1 in 1000 at 16."""

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
        positions = _bit_positions(str(name), len(self.bits) * 8)
        return all(self.bits[position // 8] >> position % 8 & 1 for position in positions)


def _bit_positions(name: str, size: int) -> Iterator[int]:
    hash_value = (zlib.crc32(name.encode(errors="surrogatepass")) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    first, step = hash_value >> 32, hash_value & 0xFFFFFFFF | 1
    return ((first + probe * step) % size for probe in range(_HASH_COUNT))


def _is_likely_typo(name: str, candidate: str, rank: int) -> bool:
    """Return True if a similar name is more likely a misspelling than a coincidence, by its length and rank."""
    if rank == _UNLISTED_RANK or len(candidate) < 4:
        return False
    if name[:1] != candidate[:1] and sorted(name[:2]) != sorted(candidate[:2]) and rank >= _COMMON_RANK:
        return False
    # A swap or a doubling is a likelier slip, so the name counts as two letters longer.
    length = len(candidate) + (2 if _is_swap_or_doubling(name, candidate) else 0)
    return rank < _MAX_RANK_BY_LENGTH.get(length, _UNLISTED_RANK)


def _is_swap_or_doubling(name: str, intended: str) -> bool:
    """Return True if two letters are swapped, or one is doubled in one of the names."""
    index = _find_first_difference(name, intended)
    if len(name) == len(intended):
        swapped = intended[:index] + intended[index : index + 2][::-1] + intended[index + 2 :]
        return name == swapped
    longer, shorter = (name, intended) if len(name) > len(intended) else (intended, name)
    return index > 0 and longer[index] == longer[index - 1] and longer[:index] + longer[index + 1 :] == shorter


def _find_first_difference(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def _are_confusable(one: str, other: str) -> bool:
    """Return True for two letters that are neighbours on a keyboard or sound alike."""
    if any(one in group and other in group for group in _SOUND_ALIKE):
        return True
    return any(one + other in row or other + one in row for row in _KEYBOARD_ROWS)
