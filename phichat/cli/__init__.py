"""The command line."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """The `phichat` command."""
    try:
        from phichat.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    # What is left goes with the process: looking through all of it first takes up to half a second.
    gc.freeze()
    sys.exit(code)
