"""The command line."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """The `phichat` command."""
    # Nothing of what a start imports is garbage: to look for some 200 times is what it takes longest over.
    gc.set_threshold(20_000)
    try:
        from phichat.cli.app import run_command_line

        code = run_command_line(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    # What is left goes with the process: looking through all of it first takes up to half a second.
    gc.freeze()
    sys.exit(code)
