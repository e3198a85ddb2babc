"""Report of the code check on an answer.

Lines count from 1. `CheckedBlock.start_line` and `InstallCommand.line` are lines of the answer, since an install
command may be in prose; every other line counts within its block.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class PackageStatus(StrEnum):
    """Status of a package that is not in the standard library."""

    INSTALLED = "installed"
    KNOWN = "known"
    """A popular project has that name."""
    UNKNOWN = "unknown"
    SUSPICIOUS = "suspicious"
    """Very similar to a popular or standard name, or a name that models are known to invent."""


@dataclass(frozen=True, slots=True)
class ImportedPackage:
    """A module outside the standard library. distribution: to install for it, "" when not known."""

    module: str
    distribution: str
    status: PackageStatus
    line: int


@dataclass(frozen=True, slots=True)
class BadApi:
    """A name of the standard library that does not exist. name: canonical, whatever alias the code uses."""

    name: str
    line: int
    message: str


@dataclass(frozen=True, slots=True)
class InstallCommand:
    """A distribution that a command in the answer installs. name: as written."""

    name: str
    status: PackageStatus
    line: int


@dataclass(frozen=True, slots=True)
class CheckedBlock:
    """One code block. language: canonical, "" where neither labelled nor recognised."""

    language: str
    start_line: int
    python: bool
    syntax_ok: bool = True
    non_stdlib: tuple[ImportedPackage, ...] = ()
    bad_apis: tuple[BadApi, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CodeReport:
    """Report on a whole answer. other_languages: canonical names, in order of appearance.

    warnings: single lines for the user without control characters, the most severe first.
    """

    blocks: tuple[CheckedBlock, ...] = ()
    other_languages: tuple[str, ...] = ()
    installs: tuple[InstallCommand, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as `phichat check --json` prints it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TrainingScope:
    """Code that a model was mostly trained on, by its model card; the rest is to be verified by hand.

    languages: canonical names. modules: top-level names of Python's standard library.
    """

    languages: tuple[str, ...]
    modules: tuple[str, ...]
