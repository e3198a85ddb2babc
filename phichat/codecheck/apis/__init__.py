"""What the standard library of each Python version has, and what of it a piece of code uses that is not there."""

from __future__ import annotations

from phichat.codecheck.apis.checker import find_bad_apis
from phichat.codecheck.apis.snapshot import module_versions

__all__ = ["find_bad_apis", "module_versions"]
