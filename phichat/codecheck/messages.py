"""Warnings of a report: single short lines, the most severe first.

| severity | wording |
| --- | --- |
| wrong name | `reqeusts isn't a known package (very similar to requests); check before installing` |
| does not exist | `math.nope does not exist`, `urllib2 is Python 2's name for urllib.request` |
| does not parse | `line 3: not valid Python 3.12 (invalid syntax)` |
| to install | `needs requests (pip install requests)` |
| out of scope | `bash: outside this model's main training (Python); verify by hand` |
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from phichat.code_report import BadApi, CheckedBlock, ImportedPackage, InstallCommand, PackageStatus
from phichat.codecheck.package_names import classify_install, classify_module
from phichat.sanitize import sanitize_line

SCOPE_WARNING_SUFFIX = "verify by hand"
SYNTAX_NOTE_PREFIX = "line "
_UNKNOWN_PACKAGE = "isn't a well-known package; look it up before installing"
_MAX_WIDTH = 180
_MAX_WARNINGS = 100


class Severity(IntEnum):
    """Severity of a warning, the most severe first."""

    WRONG_NAME = 0
    MISSING = 1
    SYNTAX = 2
    INSTALL = 3
    SCOPE = 4


@dataclass(frozen=True, slots=True)
class CheckWarning:
    """One line for the user. line: in the answer, from 1; 0 for the whole answer."""

    severity: Severity
    line: int
    text: str


def collect_block_warnings(block: CheckedBlock) -> list[CheckWarning]:
    """Return all warnings of one block, the most severe first."""
    offset = block.start_line - 1
    warnings = [_package_warning(package, offset + package.line) for package in block.non_stdlib]
    warnings += [_make_warning(Severity.MISSING, offset + bad.line, _format_bad_api(bad)) for bad in block.bad_apis]
    warnings += [_note_warning(note, block.start_line) for note in block.notes]
    return sorted(warnings, key=lambda warning: warning.severity)


def collect_install_warnings(install: InstallCommand) -> list[CheckWarning]:
    """Return the warning about the name in an install command, none for a known name."""
    name = _shorten_name(install.name)
    match install.status:
        case PackageStatus.SUSPICIOUS:
            reason = classify_install(install.name).warning or "it isn't a known package"
            return [_make_warning(Severity.WRONG_NAME, install.line, f"check {name} before installing: {reason}")]
        case PackageStatus.UNKNOWN:
            return [_make_warning(Severity.INSTALL, install.line, f"{name} {_UNKNOWN_PACKAGE}")]
    return []


def sort_by_severity(warnings: Iterable[CheckWarning]) -> list[CheckWarning]:
    """Return each text once, the most severe first; beyond a limit, the rest is counted."""
    by_text: dict[str, CheckWarning] = {}
    for warning in sorted(warnings, key=lambda warning: warning.severity):
        by_text.setdefault(warning.text, warning)
    unique = list(by_text.values())
    if len(unique) > _MAX_WARNINGS:
        omitted = len(unique) - _MAX_WARNINGS + 1
        unique[_MAX_WARNINGS - 1 :] = [CheckWarning(Severity.SCOPE, 0, f"{omitted:,} more warnings like these")]
    return unique


def format_scope_warning(subject: str, training_languages: str) -> str:
    """Return the warning about a language or packages that the model card does not name."""
    return (
        f"{_shorten_name(subject)}: outside this model's main training ({training_languages}); {SCOPE_WARNING_SUFFIX}"
    )


def _package_warning(package: ImportedPackage, line: int) -> CheckWarning:
    module = _shorten_name(package.module)
    match package.status:
        case PackageStatus.SUSPICIOUS:
            reason = classify_module(package.module).warning or "a name models often invent"
            text = f"{module} isn't a known package ({reason}); check before installing"
            return _make_warning(Severity.WRONG_NAME, line, text)
        case PackageStatus.UNKNOWN:
            text = f"{module} {_UNKNOWN_PACKAGE}"
        case PackageStatus.INSTALLED:
            text = f"needs {module} (already installed)"
        case PackageStatus.KNOWN:
            how = f"pip install {package.distribution}" if package.distribution else "third-party package"
            text = f"needs {module} ({how})"
    return _make_warning(Severity.INSTALL, line, text)


def _format_bad_api(bad: BadApi) -> str:
    verb = "was " if bad.message.startswith("removed") else ""
    return f"{_shorten_name(bad.name)} {verb}{bad.message}"


def _note_warning(note: str, start_line: int) -> CheckWarning:
    if note.endswith(SCOPE_WARNING_SUFFIX):
        return _make_warning(Severity.SCOPE, start_line, note)
    if note.startswith(SYNTAX_NOTE_PREFIX):
        number = note.removeprefix(SYNTAX_NOTE_PREFIX).partition(":")[0]
        return _make_warning(Severity.SYNTAX, start_line + (int(number) - 1 if number.isdecimal() else 0), note)
    return _make_warning(Severity.MISSING, start_line, note)


def _shorten_name(name: str) -> str:
    return name if len(name) <= 60 else name[:59] + "…"


def _make_warning(severity: Severity, line: int, text: str) -> CheckWarning:
    text = "".join(letter if letter.isprintable() else "?" for letter in sanitize_line(text))
    return CheckWarning(severity, line, text if len(text) <= _MAX_WIDTH else text[: _MAX_WIDTH - 1] + "…")
