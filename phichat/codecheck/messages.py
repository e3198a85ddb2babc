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

from phichat.code_report import BadApi, CheckedBlock, ImportedPackage, InstallCommand, PackageStatus
from phichat.codecheck.package_names import classify_install, classify_module
from phichat.sanitize import sanitize_line

SCOPE_WARNING_SUFFIX = "verify by hand"
SYNTAX_NOTE_PREFIX = "line "
_MAX_WIDTH = 180
_MAX_WARNINGS = 100


class Severity(IntEnum):
    """How much a remark matters, the gravest first."""

    WRONG_NAME = 0
    MISSING = 1
    SYNTAX = 2
    INSTALL = 3
    SCOPE = 4


@dataclass(frozen=True, slots=True)
class CheckWarning:
    """One line for people. line: in the answer, from 1; 0 for the whole of it."""

    severity: Severity
    line: int
    text: str


def collect_block_warnings(block: CheckedBlock) -> list[CheckWarning]:
    """All there is to say of one block, the gravest first."""
    line_offset = block.start_line - 1
    warnings = [_package_warning(package, line_offset) for package in block.non_stdlib]
    warnings += [CheckWarning(Severity.MISSING, line_offset + bad.line, _format_bad_api(bad)) for bad in block.bad_apis]
    warnings += [_note_warning(note, block.start_line) for note in block.notes]
    return sorted((_sanitize_warning(one) for one in warnings), key=lambda one: one.severity)


def collect_install_warnings(install: InstallCommand) -> list[CheckWarning]:
    """What is wrong with the name in an install command; nothing for one that is right."""
    if install.status is PackageStatus.SUSPICIOUS:
        reason = classify_install(install.name).warning or "that is a name nobody knows"
        return [
            _sanitize_warning(
                CheckWarning(
                    Severity.WRONG_NAME,
                    install.line,
                    f"do not install {_shorten_name(install.name)} unchecked: {reason}",
                )
            )
        ]
    if install.status is PackageStatus.UNKNOWN:
        text = f"{_shorten_name(install.name)} is no well-known distribution: look it up before you install it"
        return [_sanitize_warning(CheckWarning(Severity.INSTALL, install.line, text))]
    return []


def sort_by_severity(warnings: Iterable[CheckWarning]) -> list[CheckWarning]:
    """Each text once, in order of gravity; of very many the rest is counted."""
    unique: dict[str, CheckWarning] = {}
    for warning in sorted(warnings, key=lambda one: one.severity):
        unique.setdefault(warning.text, warning)
    unique_warnings = list(unique.values())
    if len(unique_warnings) > _MAX_WARNINGS:
        omitted = len(unique_warnings) - _MAX_WARNINGS + 1
        unique_warnings[_MAX_WARNINGS - 1 :] = [
            CheckWarning(Severity.SCOPE, 0, f"{omitted:,} more warnings like these")
        ]
    return unique_warnings


def format_scope_warning(subject: str, training_languages: str) -> str:
    """The remark on languages or packages that the model's card does not name."""
    return f"{_shorten_name(subject)}: outside what this model was mostly trained to write ({training_languages}), {SCOPE_WARNING_SUFFIX}"


def _package_warning(package: ImportedPackage, line_offset: int) -> CheckWarning:
    module, line = _shorten_name(package.module), line_offset + package.line
    install = f"pip install {package.distribution}" if package.distribution else ""
    match package.status:
        case PackageStatus.SUSPICIOUS:
            reason = classify_module(package.module).warning or "a name that models make up"
            text = f"{module} is no known package ({reason}): check it before you install anything"
            return CheckWarning(Severity.WRONG_NAME, line, text)
        case PackageStatus.UNKNOWN:
            text = (
                f"{module} is not in the standard library and no well-known package: look it up before you install it"
            )
            return CheckWarning(Severity.INSTALL, line, text)
        case PackageStatus.INSTALLED:
            return CheckWarning(
                Severity.INSTALL, line, f"{module} is not in the standard library: {install} (is installed)"
            )
        case PackageStatus.KNOWN:
            text = f"{module} is not in the standard library" + (f": {install}" if install else "")
            return CheckWarning(Severity.INSTALL, line, text)


def _format_bad_api(bad: BadApi) -> str:
    verb = "was " if bad.message.startswith("removed") else ""
    return f"{_shorten_name(bad.name)} {verb}{bad.message}"


def _note_warning(note: str, start_line: int) -> CheckWarning:
    if note.endswith(SCOPE_WARNING_SUFFIX):
        return CheckWarning(Severity.SCOPE, start_line, note)
    if note.startswith(SYNTAX_NOTE_PREFIX):
        line_number = note.removeprefix(SYNTAX_NOTE_PREFIX).partition(":")[0]
        return CheckWarning(
            Severity.SYNTAX, start_line + (int(line_number) - 1 if line_number.isdecimal() else 0), note
        )
    return CheckWarning(Severity.MISSING, start_line, note)


def _shorten_name(name: str) -> str:
    return name if len(name) <= 60 else name[:59] + "…"


def _sanitize_warning(warning: CheckWarning) -> CheckWarning:
    text = sanitize_line(warning.text)
    if not text.isprintable():
        text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return CheckWarning(
        warning.severity, warning.line, text if len(text) <= _MAX_WIDTH else text[: _MAX_WIDTH - 1] + "…"
    )
