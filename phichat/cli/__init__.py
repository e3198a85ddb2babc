"""The command line."""

from __future__ import annotations

import sys


def main() -> None:
    """The `phichat` command."""
    try:
        from phichat.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
