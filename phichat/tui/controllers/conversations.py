"""Actions on stored conversations: list, open, rename, delete, restore, export and replay."""

from functools import partial

from textual.timer import Timer

from phichat.cancel import CancelToken
from phichat.errors import UsageError
from phichat.services.transcript_service import EXPORT_FORMATS, ConversationEntry
from phichat.tui.controllers.context import ChatContext
from phichat.tui.controllers.turns import TurnController
from phichat.tui.screens.dialogs import InputDialog, SelectDialog, TextDialog

_SEARCH_DEBOUNCE_S = 0.12
"""From the last key to the search."""


class ConversationController:
    """Connect the sidebar to the transcripts, and replace the conversation on the screen."""

    def __init__(self, context: ChatContext, turns: TurnController) -> None:
        self._context, self._turns = context, turns
        self._search_timer: Timer | None = None

    def toggle_sidebar(self) -> None:
        """Show or hide the sidebar."""
        sidebar = self._context.sidebar
        sidebar.toggle_open()
        if not sidebar.is_open:
            self._context.prompt.focus()

    def search(self, query: str) -> None:
        """List the conversations that match, after a pause in which no other search is requested."""
        if self._search_timer is not None:
            self._search_timer.stop()
        delay_s = _SEARCH_DEBOUNCE_S if query else 0.001
        self._search_timer = self._context.screen.set_timer(delay_s, partial(self._search_now, query))

    def _search_now(self, query: str = "") -> None:
        list_entries = partial(self._context.service.transcripts.list_entries, query)
        self._context.run_in_thread("list", list_entries, self._context.sidebar.show_entries)

    def run_action(self, name: str, entry: ConversationEntry | None) -> None:
        """Run an action of the sidebar on one of its entries; errors are shown."""
        actions = {"open": self._open, "rename": self._rename, "delete": self._delete}
        with self._context.report_errors():
            if name == "undo":
                self._context.notify(self._context.service.transcripts.undo_delete())
                self._search_now()
            elif entry is not None and name == "export":
                self._ask_export(entry.id)
            elif entry is not None:
                actions[name](entry)

    def _open(self, entry: ConversationEntry) -> None:
        if not self._context.check_idle():
            return
        conversation = self._context.service.open_conversation(entry.id)
        if entry.turn_id:
            conversation.switch_to(entry.turn_id)
        self._context.open_conversation(conversation)
        if entry.turn_id:
            # Only laid out lines can be scrolled to; the welcome page may just have been hidden.
            self._context.screen.call_after_refresh(self._context.view.select_turn_id, entry.turn_id)
        if self._context.sidebar.is_fullscreen:
            self._context.sidebar.toggle_open()

    def _rename(self, entry: ConversationEntry) -> None:
        def on_answer(title: str) -> None:
            self._context.service.transcripts.rename(entry.id, title)
            self._search_now()

        self._context.ask(InputDialog("Rename conversation", entry.title), on_answer)

    def _delete(self, entry: ConversationEntry) -> None:
        self._context.service.transcripts.soft_delete(entry.id)
        self._context.notify("Deleted. Press u to undo (until you quit).")
        if self._context.conversation.id == entry.id:
            self._context.open_conversation(self._context.service.new_conversation())
        self._search_now()

    def export(self, args: str) -> None:
        """Export the conversation on the screen. Raises PhichatError kinds.

        args: "", a format, or a format and a file name; a missing one is asked for or chosen.
        """
        conversation_id = self._context.conversation.id
        if conversation_id is None:
            raise UsageError("This conversation isn't saved yet", "Ask something first")
        export_format, _, name = args.partition(" ")
        if export_format:
            self._write_export(conversation_id, export_format, name.strip() or f"conversation.{export_format}")
        else:
            self._ask_export(conversation_id)

    def _ask_export(self, conversation_id: str) -> None:
        def on_format(export_format: str) -> None:
            dialog = InputDialog("Save export as", f"conversation.{export_format}")
            self._context.ask(dialog, partial(self._write_export, conversation_id, export_format))

        self._context.ask(SelectDialog("Export as", [(name, name) for name in EXPORT_FORMATS]), on_format)

    def _write_export(self, conversation_id: str, export_format: str, name: str) -> None:
        document = self._context.service.transcripts.export(conversation_id, export_format)
        self._turns.save_to_file(name, document)

    def replay(self) -> None:
        """Generate the last answer again and show how the two compare."""
        if not self._context.check_idle():
            return
        self._context.notify("Replaying the last answer to compare…")
        self._context.run_in_thread(
            "replay",
            lambda: self._context.service.replay_last_turn(self._context.conversation, CancelToken()),
            lambda result: self._context.screen.app.push_screen(TextDialog("Replay", result)),
        )
