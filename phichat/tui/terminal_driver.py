"""Input from the terminal on Linux and macOS, where Esc is a key and also the first byte of most other keys."""

import os
from codecs import getincrementaldecoder
from select import select

from textual import constants
from textual._xterm_parser import XTermParser
from textual.drivers.linux_driver import LinuxDriver

_READ_BYTES = 4096
_POLL_INTERVAL_S = 0.1
"""Between two checks whether the app has ended."""
_ESCAPE_WAIT_S = constants.ESCAPE_DELAY + 0.001


class TerminalDriver(LinuxDriver):
    """Report the Esc key as soon as ESCDELAY has passed.

    Textual's own driver checks ten times a second, so Esc would stop an answer up to 100 ms late.
    """

    def run_input_thread(self) -> None:
        """Forward keys to the app until it ends. Raises EOFError and OSError when the terminal is closed."""
        parser = XTermParser(self._debug)
        decode = getincrementaldecoder("utf-8")("replace").decode
        timeout_s = _POLL_INTERVAL_S
        while not self.exit_event.is_set():
            has_input = bool(select([self.fileno], [], [], timeout_s)[0])
            if has_input:
                data = os.read(self.fileno, _READ_BYTES)
                if not data:
                    raise EOFError("the terminal was closed")
                for message in parser.feed(decode(data)):
                    self.process_message(message)
            for message in parser.tick():
                self.process_message(message)
            timeout_s = _ESCAPE_WAIT_S if has_input else _POLL_INTERVAL_S
