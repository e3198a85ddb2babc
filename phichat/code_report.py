"""What the code check found in an answer: pure values that pass between the rooms.

Lines count from 1. `CheckedBlock.start_line` is the block's first code line in the answer, and so is the
line of an `Install`, which may stand in prose; every other line counts within its block.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class PackageStatus(StrEnum):
    """What is known of a package that is not in the standard library."""

    INSTALLED = "installed"
    KNOWN = "known"
    """A popular project bears that name."""
    UNKNOWN = "unknown"
    SUSPICIOUS = "suspicious"
    """Very like a popular or standard name without being one, or known to be made up by models."""


@dataclass(frozen=True, slots=True)
class ImportedPackage:
    """A module outside the standard library. distribution: what is installed to have it, "" when not known."""

    module: str
    distribution: str
    status: PackageStatus
    line: int


@dataclass(frozen=True, slots=True)
class BadApi:
    """Something of the standard library that does not exist. name: canonical, whatever it was imported as."""

    name: str
    line: int
    message: str


@dataclass(frozen=True, slots=True)
class InstallCommand:
    """A distribution that a command in the answer installs."""

    name: str
    status: PackageStatus
    line: int


@dataclass(frozen=True, slots=True)
class CheckedBlock:
    """One code block. language: canonical, "" when unlabelled and not recognised."""

    language: str
    start_line: int
    python: bool
    syntax_ok: bool = True
    non_stdlib: tuple[ImportedPackage, ...] = ()
    bad_apis: tuple[BadApi, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CodeReport:
    """The whole answer. other_languages: canonical names, in order of appearance.

    warnings: single lines for people, free of control characters, the gravest first.
    """

    blocks: tuple[CheckedBlock, ...] = ()
    other_languages: tuple[str, ...] = ()
    installs: tuple[InstallCommand, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as `phichat check --json` prints it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TrainingScope:
    """What a model card says the model's code was mostly trained on; the rest is to be verified by hand.

    languages: canonical names. modules: top-level names of Python's standard library.
    """

    languages: tuple[str, ...]
    modules: tuple[str, ...]
