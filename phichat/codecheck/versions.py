"""Which Python a project is for."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

OLDEST, NEWEST = (3, 8), (3, 15)
"""The versions that can be checked for; of older ones too little is known."""

_CLAUSE = re.compile(r"\s*(~=|===?|!=|<=?|>=?)\s*(\d+)(?:\.(\d+|\*))?(?:\.\S*)?\s*")


def project_version(file: Path) -> tuple[int, int] | None:
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
        required = table.get("requires-python") if isinstance(table, dict) else None
        return lowest_version(required) if isinstance(required, str) else None
    return None


def lowest_version(required: str) -> tuple[int, int] | None:
    """The lowest Python 3 that a specifier such as `>=3.10,<4` allows, of those that can be checked for."""
    clauses = [_CLAUSE.fullmatch(clause) for clause in required.split(",") if clause.strip()]
    if not clauses or None in clauses:
        return None
    for minor in range(OLDEST[1], NEWEST[1] + 1):
        if all(_allows(found[1], found[2], found[3], (OLDEST[0], minor)) for found in clauses if found):
            return (OLDEST[0], minor)
    return None


def _allows(operator: str, major: str, minor: str | None, version: tuple[int, int]) -> bool:
    length = 2 if minor not in (None, "*") else 1
    asked = (int(major), int(minor))[:length] if minor not in (None, "*") else (int(major),)
    shown = version[:length]
    compare: dict[str, Callable[[], bool]] = {
        "==": lambda: shown == asked,
        "===": lambda: shown == asked,
        "!=": lambda: shown != asked or length == 2,
        "<": lambda: version < (*asked, 0)[:2],
        "<=": lambda: shown <= asked,
        ">": lambda: shown >= asked,
        ">=": lambda: shown >= asked,
        "~=": lambda: shown >= asked and version[0] == asked[0],
    }
    return compare[operator]()
