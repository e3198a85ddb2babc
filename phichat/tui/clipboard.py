"""Copying, by the platform's tool where there is one and by the terminal otherwise."""

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
    """The command that fills the clipboard of the screen in front of the user, if there is one.

    Over ssh there is none: a tool would fill the clipboard of the machine at the other end.
    """
    if environ.get("SSH_TTY") or environ.get("SSH_CONNECTION"):
        return None
    candidates: list[Sequence[str]]
    if platform == "darwin":
        candidates = [("pbcopy",)]
    elif platform == "win32":
        candidates = [("clip",)]
    else:
        candidates = []
        if environ.get("WAYLAND_DISPLAY"):
            candidates.append(("wl-copy",))
        if environ.get("DISPLAY"):
            candidates += [("xclip", "-selection", "clipboard"), ("xsel", "--clipboard", "--input")]
    return next((command for command in candidates if shutil.which(command[0])), None)


def supports_osc52(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the terminal may understand OSC 52. Few say so; these are known not to."""
    return environ.get("TERM", "") not in ("", "dumb", "linux") and environ.get("TERM_PROGRAM") != "Apple_Terminal"


def copy_with_command(command: Sequence[str], text: str) -> bool:
    """Whether the tool took the text."""
    encoding = "utf-16" if command[0] == "clip" else "utf-8"
    try:
        result = subprocess.run(
            command,
            input=text.encode(encoding, "replace"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0
