"""Input from the terminal on Linux and macOS, where Esc is a key and also the beginning of most others."""

from __future__ import annotations

import os
from codecs import getincrementaldecoder
from select import select

from textual import constants
from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver

_READ_BYTES = 4096
_POLL_INTERVAL_S = 0.1
"""After which it is looked whether the app has ended."""
_ESCAPE_WAIT_S = constants.ESCAPE_DELAY + 0.001


class TerminalDriver(LinuxDriver):
    """Knows that Esc was Esc as soon as ESCDELAY has passed.

    Textual's own looks ten times a second whether it has: an answer would be stopped 100 ms late at best.
    """

    def run_input_thread(self) -> None:
        """Pass on what is typed. Raises EOFError and OSError when the terminal is gone."""
        parser = XTermParser(self._debug)
        decode = getincrementaldecoder("utf-8")("replace").decode
        timeout_s = _POLL_INTERVAL_S
        while not self.exit_event.is_set():
            has_input = bool(select([self.fileno], [], [], timeout_s)[0])
            if has_input:
                data = os.read(self.fileno, _READ_BYTES)
                if not data:
                    raise EOFError("the terminal is gone")
                for message in parser.feed(decode(data)):
                    self.process_message(message)
            for message in parser.tick():
                self.process_message(message)
            timeout_s = _ESCAPE_WAIT_S if has_input else _POLL_INTERVAL_S
