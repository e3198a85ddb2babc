"""Python version of a project, from its pyproject.toml."""

import re
import tomllib
from pathlib import Path

MIN_VERSION, MAX_VERSION = (3, 8), (3, 15)
"""The versions that can be checked for; too little is known of older ones."""

_CLAUSE = re.compile(r"\s*(~=|===?|!=|<=?|>=?)\s*(\d+)(?:\.(\d+|\*))?(?:\.\S*)?\s*")


def find_project_version(file: Path) -> tuple[int, int] | None:
    """Return the lowest version that satisfies `requires-python` of the nearest pyproject.toml above a file.

    None when there is no such file, or it cannot be read: it may belong to another tool.
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
    """Return the lowest checkable Python 3 that a specifier such as `>=3.10,<4` allows."""
    clauses = [_CLAUSE.fullmatch(clause) for clause in specifier.split(",") if clause.strip()]
    if not clauses or None in clauses:
        return None
    versions = ((MIN_VERSION[0], minor) for minor in range(MIN_VERSION[1], MAX_VERSION[1] + 1))
    return next((one for one in versions if all(_satisfies_clause(clause, one) for clause in clauses if clause)), None)


def _satisfies_clause(clause: re.Match[str], version: tuple[int, int]) -> bool:
    operator, *numbers = clause.groups()
    wanted = tuple(int(number) for number in numbers if number not in (None, "*"))
    compared = version[: len(wanted)]
    match operator:
        case "==" | "===":
            return compared == wanted
        case "!=":
            # `!=3.9.1` excludes a patch release of 3.9, not all of it.
            return compared != wanted or len(wanted) == 2
        case "<":
            return version < (*wanted, 0)[:2]
        case "<=":
            return compared <= wanted
        case "~=":
            return compared >= wanted and version[0] == wanted[0]
    return compared >= wanted  # `>3.9` too: patch releases of 3.9 satisfy it
