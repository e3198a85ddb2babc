"""Copy to the clipboard with the platform's command, else through the terminal (OSC 52)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence

_TIMEOUT_S = 2.0


def find_clipboard_command(
    environ: Mapping[str, str] = os.environ, platform: str = sys.platform
) -> Sequence[str] | None:
    """Return the command that copies its stdin to the clipboard, None if there is none.

    Over SSH there is none: it would fill the clipboard of the remote machine.
    """
    if environ.get("SSH_TTY") or environ.get("SSH_CONNECTION"):
        return None
    by_platform = {"darwin": "pbcopy", "win32": "clip"}
    wayland = "wl-copy" if environ.get("WAYLAND_DISPLAY") else ""
    x11 = ("xclip -selection clipboard", "xsel --clipboard --input") if environ.get("DISPLAY") else ()
    candidates = (by_platform[platform],) if platform in by_platform else (wayland, *x11)
    return next((command.split() for command in candidates if command and shutil.which(command.split()[0])), None)


def supports_osc52(environ: Mapping[str, str] = os.environ) -> bool:
    """Return False for a terminal that is known not to understand OSC 52; few terminals report that they do."""
    return environ.get("TERM", "") not in ("", "dumb", "linux") and environ.get("TERM_PROGRAM") != "Apple_Terminal"


def copy_with_command(command: Sequence[str], text: str) -> bool:
    """Run the command with the text as its input; return True if it succeeded."""
    encoding = "utf-16" if command[0] == "clip" else "utf-8"
    try:
        content, null = text.encode(encoding, "replace"), subprocess.DEVNULL
        result = subprocess.run(command, input=content, stdout=null, stderr=null, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0
