"""Copy to the clipboard with the platform's command, else through the terminal (OSC 52)."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

_TIMEOUT_S = 2.0


def find_clipboard_command() -> Sequence[str] | None:
    """Return the command that copies its stdin to the clipboard, None if there is none.

    Over SSH there is none: it would fill the clipboard of the remote machine.
    """
    if os.environ.get("SSH_TTY") or os.environ.get("SSH_CONNECTION"):
        return None
    wayland = [["wl-copy"]] if os.environ.get("WAYLAND_DISPLAY") else []
    x11 = (
        [["xclip", "-selection", "clipboard"], ["xsel", "--clipboard", "--input"]] if os.environ.get("DISPLAY") else []
    )
    candidates = {"darwin": [["pbcopy"]], "win32": [["clip"]]}.get(sys.platform, [*wayland, *x11])
    return next((command for command in candidates if shutil.which(command[0])), None)


def supports_osc52() -> bool:
    """Return False for a terminal that is known not to understand OSC 52; few terminals report that they do."""
    is_apple = os.environ.get("TERM_PROGRAM") == "Apple_Terminal"
    return os.environ.get("TERM", "") not in ("", "dumb", "linux") and not is_apple


def copy_with_command(command: Sequence[str], text: str) -> bool:
    """Run the command with the text as its input; return True if it succeeded."""
    encoding = "utf-16" if command[0] == "clip" else "utf-8"
    try:
        content, null = text.encode(encoding, "replace"), subprocess.DEVNULL
        result = subprocess.run(command, input=content, stdout=null, stderr=null, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0
