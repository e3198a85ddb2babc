"""Which Python a project is for."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

MIN_VERSION, MAX_VERSION = (3, 8), (3, 15)
"""The versions that can be checked for; of older ones too little is known."""

_CLAUSE = re.compile(r"\s*(~=|===?|!=|<=?|>=?)\s*(\d+)(?:\.(\d+|\*))?(?:\.\S*)?\s*")


def find_project_version(file: Path) -> tuple[int, int] | None:
    """The lowest version that satisfies `requires-python` of the nearest pyproject.toml above a file.

    None when there is none, or when it cannot be read: it is somebody else's file.
    """
    for folder in file.absolute().parents:
        try:
            project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            return None
        table = project.get("project")
        requires_python = table.get("requires-python") if isinstance(table, dict) else None
        return find_lowest_version(requires_python) if isinstance(requires_python, str) else None
    return None


def find_lowest_version(specifier: str) -> tuple[int, int] | None:
    """The lowest Python 3 that a specifier such as `>=3.10,<4` allows, of those that can be checked for."""
    clauses = [_CLAUSE.fullmatch(clause) for clause in specifier.split(",") if clause.strip()]
    if not clauses or None in clauses:
        return None
    for minor in range(MIN_VERSION[1], MAX_VERSION[1] + 1):
        if all(_satisfies_clause(found[1], found[2], found[3], (MIN_VERSION[0], minor)) for found in clauses if found):
            return (MIN_VERSION[0], minor)
    return None


def _satisfies_clause(operator: str, major: str, minor: str | None, version: tuple[int, int]) -> bool:
    length = 2 if minor not in (None, "*") else 1
    clause_version = (int(major), int(minor))[:length] if minor not in (None, "*") else (int(major),)
    compared = version[:length]
    compare: dict[str, Callable[[], bool]] = {
        "==": lambda: compared == clause_version,
        "===": lambda: compared == clause_version,
        "!=": lambda: compared != clause_version or length == 2,
        "<": lambda: version < (*clause_version, 0)[:2],
        "<=": lambda: compared <= clause_version,
        ">": lambda: compared >= clause_version,
        ">=": lambda: compared >= clause_version,
        "~=": lambda: compared >= clause_version and version[0] == clause_version[0],
    }
    return compare[operator]()
