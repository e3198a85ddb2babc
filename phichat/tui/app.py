"""The Textual app: themes, the command palette, and the report of a crash."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual import constants
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.driver import Driver
from textual.events import Event, Paste
from textual.screen import Screen
from textual.theme import Theme

from phichat.chat.conversation import Conversation
from phichat.sanitize import sanitize_line
from phichat.services.chat_service import ChatService
from phichat.storage.atomic_write import write_atomically
from phichat.tui.screens.chat import ChatScreen
from phichat.tui.widgets.prompt import PromptInput

HIGH_CONTRAST = Theme(
    name="high-contrast",
    primary="#ffff00",
    secondary="#00ffff",
    accent="#00ffff",
    warning="#ffaf00",
    error="#ff5f5f",
    success="#00ff00",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#1c1c1c",
)


class PhichatApp(App[None]):
    """Run until the user quits. After a crash return_code is 1 and crash_report_path names the report."""

    TITLE = "phichat"
    CSS_PATH = "phichat.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "save_and_quit", "Quit (everything is saved)", priority=True),
        # Without priority the binding of the prompt box would copy instead.
        Binding("ctrl+c", "interrupt", "Stop the answer; twice quits", show=False, priority=True, system=True),
        Binding("ctrl+p", "command_palette", "Command palette", show=False, priority=True),
    ]

    def __init__(self, chat_service: ChatService, conversation: Conversation | None = None) -> None:
        super().__init__()
        self.chat_service, self._initial_conversation = chat_service, conversation
        self.crash_report_path: Path | None = None
        self._chat_screen: ChatScreen | None = None
        self.register_theme(HIGH_CONTRAST)
        theme = chat_service.ui_state.theme
        self.theme = theme if theme in self.available_themes else "textual-dark"

    def get_driver_class(self) -> type[Driver]:
        """Return, on Linux and macOS, a driver that reports Esc at once, unless the environment names another."""
        if sys.platform == "win32" or constants.DRIVER is not None:
            return super().get_driver_class()
        from phichat.tui.terminal_driver import TerminalDriver

        return TerminalDriver

    def get_default_screen(self) -> ChatScreen:
        """Return the chat screen itself; a screen beneath it would be styled and drawn first."""
        self._chat_screen = ChatScreen(self.chat_service, self._initial_conversation)
        return self._chat_screen

    def on_mount(self) -> None:
        self.theme_changed_signal.subscribe(self, lambda theme: self.chat_service.ui_state.save_theme(theme.name))

    def on_ready(self) -> None:
        """Continue the start-up once the first screen is drawn."""
        if self._chat_screen:
            self._chat_screen.finish_startup()

    def get_system_commands(self, screen: Screen[object]) -> Iterator[SystemCommand]:
        """Yield the entries of the command palette, in place of those of Textual."""
        if isinstance(screen, ChatScreen):
            yield from screen.iter_palette_commands()
        yield SystemCommand("Change theme", "", self.action_change_theme)
        yield SystemCommand("Quit (Ctrl+Q)", "", partial(self.run_action, "save_and_quit"))

    async def on_event(self, event: Event) -> None:
        """Sanitise a paste, which is untrusted text, except for the prompt box, which shows it as a chip."""
        if isinstance(event, Paste) and not isinstance(self.focused, PromptInput):
            event.text = sanitize_line(event.text)
        await super().on_event(event)

    async def action_save_and_quit(self) -> None:
        """Save the draft and quit."""
        if self._chat_screen:
            self._chat_screen.save_and_quit()

    def action_interrupt(self) -> None:
        """Copy the selected text, else stop the answer; twice in a row quits."""
        if self._chat_screen:
            self._chat_screen.handle_interrupt()

    def _fatal_error(self) -> None:
        """Write a crash report; Textual would print the values of all variables, conversations among them."""
        self._close_messages_no_wait()
        if self._chat_screen:
            self._chat_screen.shut_down()
        path = self.chat_service.crash_report_folder / f"crash-{datetime.now(UTC):%Y%m%dT%H%M%S}.txt"
        report = "".join(_format_redacted_traceback(self._exception))
        with suppress(OSError):
            write_atomically(path, report.encode("utf-8", "backslashreplace"))
            self.crash_report_path = path


def _format_redacted_traceback(error: BaseException | None) -> Iterator[str]:
    """Yield the stack and type of an exception and of its causes, without messages, which may quote a conversation."""
    if error is not None:
        yield from _format_redacted_traceback(error.__cause__ or error.__context__)
        yield from traceback.format_tb(error.__traceback__)
        yield f"{type(error).__module__}.{type(error).__qualname__}\n\n"
