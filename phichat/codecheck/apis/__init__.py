"""Names of the standard library in each Python version, and the uses of names that a version lacks."""

from __future__ import annotations

from phichat.codecheck.apis.checker import find_bad_apis

__all__ = ["find_bad_apis"]
