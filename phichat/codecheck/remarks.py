"""What a report says to people: single short lines, the gravest first.

| gravity | wording |
| --- | --- |
| wrong name | `reqeusts is no known package (very like requests): check it before you install anything` |
| does not exist | `math.nope does not exist`, `urllib2 is Python 2's name of urllib.request` |
| does not parse | `line 3: no valid Python 3.12 (invalid syntax)` |
| to install | `requests is not in the standard library: pip install requests` |
| beyond the model | `bash: outside what this model was mostly trained to write (Python), verify by hand` |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from phichat.code_report import BadApi, CheckedBlock, ImportedPackage, Install, PackageStatus
from phichat.codecheck.names import judge_install, judge_module
from phichat.terminal import clean_line

SCOPE_END = "verify by hand"
SYNTAX_BEGINS = "line "
_WIDEST = 180
_MOST = 100


class Gravity(IntEnum):
    """How much a remark matters, the gravest first."""

    WRONG_NAME = 0
    MISSING = 1
    SYNTAX = 2
    INSTALL = 3
    SCOPE = 4


@dataclass(frozen=True, slots=True)
class Remark:
    """One line for people. line: in the answer, from 1; 0 for the whole of it."""

    gravity: Gravity
    line: int
    text: str


def remarks_on_block(block: CheckedBlock) -> list[Remark]:
    """All there is to say of one block, the gravest first."""
    first = block.start_line - 1
    found = [_on_package(package, first) for package in block.non_stdlib]
    found += [Remark(Gravity.MISSING, first + bad.line, _on_api(bad)) for bad in block.bad_apis]
    found += [_on_note(note, block.start_line) for note in block.notes]
    return sorted((_plain(one) for one in found), key=lambda one: one.gravity)


def remarks_on_install(install: Install) -> list[Remark]:
    """What is wrong with the name in an install command; nothing for one that is right."""
    if install.status is PackageStatus.SUSPICIOUS:
        why = judge_install(install.name).remark or "that is a name nobody knows"
        return [
            _plain(Remark(Gravity.WRONG_NAME, install.line, f"do not install {_short(install.name)} unchecked: {why}"))
        ]
    if install.status is PackageStatus.UNKNOWN:
        text = f"{_short(install.name)} is no well-known distribution: look it up before you install it"
        return [_plain(Remark(Gravity.INSTALL, install.line, text))]
    return []


def gravest_first(remarks: Iterable[Remark]) -> list[Remark]:
    """Each text once, in order of gravity; of very many the rest is counted."""
    unique: dict[str, Remark] = {}
    for remark in sorted(remarks, key=lambda one: one.gravity):
        unique.setdefault(remark.text, remark)
    found = list(unique.values())
    if len(found) > _MOST:
        rest = len(found) - _MOST + 1
        found[_MOST - 1 :] = [Remark(Gravity.SCOPE, 0, f"{rest:,} more warnings like these")]
    return found


def scope_remark(what: str, trained_on: str) -> str:
    """The remark on languages or packages that the model's card does not name."""
    return f"{_short(what)}: outside what this model was mostly trained to write ({trained_on}), {SCOPE_END}"


def _on_package(package: ImportedPackage, first: int) -> Remark:
    module, line = _short(package.module), first + package.line
    install = f"pip install {package.distribution}" if package.distribution else ""
    match package.status:
        case PackageStatus.SUSPICIOUS:
            why = judge_module(package.module).remark or "a name that models make up"
            text = f"{module} is no known package ({why}): check it before you install anything"
            return Remark(Gravity.WRONG_NAME, line, text)
        case PackageStatus.UNKNOWN:
            text = (
                f"{module} is not in the standard library and no well-known package: look it up before you install it"
            )
            return Remark(Gravity.INSTALL, line, text)
        case PackageStatus.INSTALLED:
            return Remark(Gravity.INSTALL, line, f"{module} is not in the standard library: {install} (is installed)")
        case PackageStatus.KNOWN:
            text = f"{module} is not in the standard library" + (f": {install}" if install else "")
            return Remark(Gravity.INSTALL, line, text)


def _on_api(bad: BadApi) -> str:
    verb = "was " if bad.message.startswith("removed") else ""
    return f"{_short(bad.name)} {verb}{bad.message}"


def _on_note(note: str, start_line: int) -> Remark:
    if note.endswith(SCOPE_END):
        return Remark(Gravity.SCOPE, start_line, note)
    if note.startswith(SYNTAX_BEGINS):
        number = note.removeprefix(SYNTAX_BEGINS).partition(":")[0]
        return Remark(Gravity.SYNTAX, start_line + (int(number) - 1 if number.isdecimal() else 0), note)
    return Remark(Gravity.MISSING, start_line, note)


def _short(name: str) -> str:
    return name if len(name) <= 60 else name[:59] + "…"


def _plain(remark: Remark) -> Remark:
    text = clean_line(remark.text)
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return Remark(remark.gravity, remark.line, text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…")
