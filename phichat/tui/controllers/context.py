"""State and widgets that the controllers of one chat screen share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread

from textual.screen import Screen

from phichat.chat.conversation import Conversation
from phichat.errors import PhichatError
from phichat.sanitize import sanitize_line
from phichat.services.chat_service import ChatService
from phichat.tui.background import Result, run_in_thread
from phichat.tui.screens.dialogs import Dialog
from phichat.tui.turn_view import TurnView, build_turn_view
from phichat.tui.widgets.conversation import ConversationView
from phichat.tui.widgets.prompt import CompletionList, PromptInput
from phichat.tui.widgets.sidebar import Sidebar
from phichat.tui.widgets.status import StatusLine
from phichat.tui.widgets.welcome import Welcome


@dataclass(eq=False)
class ChatContext:
    """The service, the conversation on the screen, and the widgets.

    is_busy: an answer is being generated, so the tree of turns must not change. edited_turn: the turn that the next
    prompt replaces.
    """

    screen: Screen[None]
    service: ChatService
    conversation: Conversation
    is_busy: bool = False
    edited_turn: TurnView | None = None
    view: ConversationView = field(default_factory=ConversationView)
    prompt: PromptInput = field(default_factory=PromptInput)
    completions: CompletionList = field(default_factory=CompletionList)
    sidebar: Sidebar = field(default_factory=Sidebar)
    status_line: StatusLine = field(default_factory=StatusLine)
    welcome: Welcome = field(default_factory=Welcome)

    def notify(self, text: str) -> None:
        """Show a message in the corner of the screen."""
        self.screen.notify(sanitize_line(text), markup=False)

    def notify_error(self, error: PhichatError | str) -> None:
        """Show an error in the corner of the screen."""
        self.screen.notify(sanitize_line(f"{error}"), severity="error", markup=False)

    @contextmanager
    def report_errors(self) -> Iterator[None]:
        """Show the PhichatError that ends the block, if there is one."""
        try:
            yield
        except PhichatError as error:
            self.notify_error(error)

    def check_idle(self) -> bool:
        """Return True unless an answer is being generated; the user is notified then."""
        if self.is_busy:
            self.notify("Still answering. Press Esc to stop.")
        return not self.is_busy

    def ask(self, dialog: Dialog[Result], on_answer: Callable[[Result], object]) -> None:
        """Open a dialog; on_answer is called unless the user cancels it, answers No, or leaves it empty."""

        def on_dismiss(answer: Result | None) -> None:
            with self.report_errors():
                if answer:
                    on_answer(answer)

        self.screen.app.push_screen(dialog, on_dismiss)

    def run_in_thread(self, name: str, work: Callable[[], Result], on_result: Callable[[Result], object]) -> Thread:
        """Run work in a thread; on_result is called on the screen, and an error is shown."""
        return run_in_thread(self.screen, name, work, on_result, self.notify_error)

    def show_conversation(self, *, is_empty: bool = False) -> None:
        """Show the conversation, or the welcome page while it has no turns."""
        self.welcome.display = is_empty
        self.view.display = not is_empty

    def open_conversation(self, conversation: Conversation) -> None:
        """Replace the conversation on the screen."""
        self.conversation, self.edited_turn = conversation, None
        self.show_conversation(is_empty=not conversation.branch)
        self.refresh_branch()
        self.prompt.set_history([turn.prompt for turn in conversation.branch])
        self.prompt.focus()

    def refresh_branch(self) -> None:
        """Show the branch that ends at the conversation's head."""
        self.view.show_turns([build_turn_view(self.conversation, record) for record in self.conversation.branch])
