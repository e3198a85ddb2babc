"""The command line."""

import gc
import sys


def main() -> None:
    """Run the `phichat` command and exit."""
    # Imports at start-up create no garbage, and looking for it some 200 times takes longer than the rest.
    gc.set_threshold(20_000)
    try:
        from phichat.cli.app import run_command_line

        code = run_command_line(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    # The process ends and frees all memory: a last collection would take up to half a second.
    gc.freeze()
    sys.exit(code)
