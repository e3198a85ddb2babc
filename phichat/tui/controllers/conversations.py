"""Conversations and models beside the chat: looking for them, opening them, having them downloaded."""

from __future__ import annotations

from functools import partial
from threading import Thread

from textual.events import Resize
from textual.timer import Timer

from phichat.cancel import CancelToken
from phichat.errors import PhichatError, UsageError
from phichat.services.model_catalog import CatalogEntry
from phichat.services.transcript_service import EXPORT_FORMATS, ConversationEntry
from phichat.tui.controllers.commands import CommandingScreen
from phichat.tui.download_thread import DownloadThread
from phichat.tui.screens.dialogs import InputDialog, SelectDialog, SelectOption, TextDialog
from phichat.tui.screens.model_picker import ModelPicker, ModelPickerResult
from phichat.tui.widgets.sidebar import Sidebar
from phichat.tui.widgets.welcome import Welcome

_SEARCH_DEBOUNCE_S = 0.12
"""After the last key before a search begins."""


class BrowsingScreen(CommandingScreen):
    """The sidebar and the model switcher."""

    _search_timer: Timer | None = None
    download: DownloadThread | None = None

    @property
    def sidebar(self) -> Sidebar:
        return self.query_one(Sidebar)

    def set_background_status(self, status: str) -> None:
        """What goes on in the background, in the line of status."""
        raise NotImplementedError

    def on_resize(self, event: Resize) -> None:
        self.sidebar.adapt_to_width(event.size.width)

    # Moving

    def action_redraw(self) -> None:
        """After something else has written to the terminal."""
        self.refresh(repaint=True, layout=True)

    def action_scroll_page(self, pages: int) -> None:
        """Scroll the conversation while the prompt keeps the keys."""
        self.conversation_view.scroll_relative(y=pages * (self.conversation_view.size.height - 2), animate=False)

    def action_jump_to_top(self) -> None:
        """The beginning of the conversation."""
        self.conversation_view.action_jump_to_top()

    def action_jump_to_end(self) -> None:
        """The newest line."""
        self.conversation_view.action_jump_to_end()

    # Conversations

    def action_toggle_sidebar(self) -> None:
        """Show or hide the conversations."""
        self.sidebar.toggle_open()
        if not self.sidebar.is_open:
            self.prompt_input.focus()

    def on_sidebar_search_requested(self, message: Sidebar.SearchRequested) -> None:
        if self._search_timer is not None:
            self._search_timer.stop()
        self._search_timer = self.set_timer(
            _SEARCH_DEBOUNCE_S if message.query else 0.001, partial(self._search_conversations, message.query)
        )

    def _search_conversations(self, query: str) -> None:
        def run() -> None:
            try:
                entries = self.chat_service.list_conversations(query)
            except PhichatError as error:
                self.call_later(self.notify_user, f"{error}", grave=True)
            else:
                self.call_later(self.sidebar.show_entries, entries)

        Thread(target=run, name="list", daemon=True).start()

    def on_sidebar_action_requested(self, message: Sidebar.ActionRequested) -> None:
        entry = message.entry
        try:
            match message.action_name, entry:
                case "open", ConversationEntry():
                    self._open_entry(entry)
                case "rename", ConversationEntry():
                    self._rename_entry(entry)
                case "delete", ConversationEntry():
                    self._delete_entry(entry)
                case "export", ConversationEntry():
                    self._ask_export(entry.id)
                case "undo", _:
                    message_text = self.chat_service.undo_delete()
                    self.notify_user(message_text)
                    self._search_conversations("")
                case _:
                    pass
        except PhichatError as error:
            self.notify_user(f"{error}", is_error=True)

    def _open_entry(self, entry: ConversationEntry) -> None:
        if self.is_busy:
            self.notify_user("An answer is being written; Esc stops it.")
            return
        conversation = self.chat_service.open_conversation(entry.id)
        if entry.turn_id:
            conversation.switch_to(entry.turn_id)
        self.open_conversation(conversation)
        if entry.turn_id:
            hit_turn = next((turn for turn in self.conversation_view.turns if turn.id == entry.turn_id), None)
            # Only what is laid out can be scrolled to; the first screen may just have gone.
            self.call_after_refresh(self.conversation_view.select_turn, hit_turn)
        if self.sidebar.is_fullscreen:
            self.sidebar.toggle_open()

    def _rename_entry(self, entry: ConversationEntry) -> None:
        def on_answer(title: str | None) -> None:
            if title:
                self.chat_service.rename_conversation(entry.id, title)
                self._search_conversations("")

        self.app.push_screen(InputDialog("Title", entry.title), on_answer)

    def _delete_entry(self, entry: ConversationEntry) -> None:
        self.chat_service.delete_conversation(entry.id)
        self.notify_user("Deleted; u brings it back until phichat ends.")
        if self.conversation.id == entry.id:
            self.open_conversation(self.chat_service.new_conversation())
        self._search_conversations("")

    def _ask_export(self, conversation_id: str) -> None:
        def on_format(export_format: str | None) -> None:
            if export_format is not None:
                self.app.push_screen(
                    InputDialog("Write it to", f"conversation.{export_format}"), partial(on_file_name, export_format)
                )

        def on_file_name(export_format: str, name: str | None) -> None:
            if name:
                self._write_export(conversation_id, export_format, name)

        self.app.push_screen(
            SelectDialog("Export as", [SelectOption(format, format) for format in EXPORT_FORMATS]), on_format
        )

    def _write_export(self, conversation_id: str, export_format: str, name: str) -> None:
        try:
            self.save_to_file(name, self.chat_service.export_conversation(conversation_id, export_format))
        except PhichatError as error:
            self.notify_user(f"{error}", is_error=True)

    def _do_export(self, argument: str) -> None:
        if self.conversation.id is None:
            raise UsageError("This conversation is not kept yet", "Ask something first")
        export_format, _, name = argument.partition(" ")
        if not export_format:
            self._ask_export(self.conversation.id)
        elif export_format not in EXPORT_FORMATS:
            raise UsageError(f"There is no format {export_format!r}", "the formats are " + ", ".join(EXPORT_FORMATS))
        else:
            self._write_export(self.conversation.id, export_format, name.strip() or f"conversation.{export_format}")

    def _do_load(self, argument: str) -> None:
        if argument and self.is_busy:
            self.notify_user("An answer is being written; Esc stops it.")
        elif argument:
            self.open_conversation(self.chat_service.open_conversation(argument))
        elif not self.sidebar.is_open:
            self.action_toggle_sidebar()

    def _do_replay(self, argument: str) -> None:
        if self.is_busy:
            self.notify_user("An answer is being written; Esc stops it.")
            return
        self.notify_user("Answering once more, to compare.")

        def run() -> None:
            try:
                result = self.chat_service.replay_last_turn(self.conversation, CancelToken())
            except PhichatError as error:
                result = f"{error}"
            self.call_later(lambda: self.app.push_screen(TextDialog("Replay", result)))

        Thread(target=run, name="replay", daemon=True).start()

    # Models

    def action_pick_model(self, filter_text: str = "") -> None:
        """Choose another model, or have one downloaded."""

        def on_pick(result: ModelPickerResult | None) -> None:
            if result is None:
                return
            if result.entry is None:
                self.action_unload_model()
            elif result.entry.installed:
                self._switch_model(result.entry.name)
            else:
                self._start_download(result.entry)

        catalog = self.chat_service.catalog
        self.app.push_screen(ModelPicker(catalog.entries, catalog.search_hub, self.current_model, filter_text), on_pick)

    def refresh_models(self) -> None:
        """Tell the first screen what is here: in a thread, for it reads headers."""
        welcome = self.query_one(Welcome)

        def run() -> None:
            try:
                entries = self.chat_service.catalog.entries()
            except PhichatError as error:
                self.call_later(self.notify_user, f"{error}", grave=True)
            else:
                welcome.post_message(Welcome.ModelsLoaded(entries))

        Thread(target=run, name="models", daemon=True).start()

    def on_welcome_model_picked(self, message: Welcome.ModelPicked) -> None:
        if message.entry.installed:
            self._switch_model(message.entry.name)
        else:
            self.action_pick_model(message.entry.name)
        self.prompt_input.focus()

    def on_welcome_example_picked(self, message: Welcome.ExamplePicked) -> None:
        self.prompt_input.set_text(message.prompt)
        self.prompt_input.focus()

    def action_unload_model(self) -> None:
        """Free the memory of the model; the next prompt loads it again."""
        if self.is_busy:
            self.notify_user("An answer is being written; Esc stops it.")
            return
        self.stop_preload()
        self.chat_service.unload_model()
        self.on_model_unloaded()
        self.notify_user("The memory is free; the next prompt loads the model again.")

    def _do_model(self, argument: str) -> None:
        if argument:
            self._switch_model(argument)
        else:
            self.action_pick_model()

    def _switch_model(self, name: str) -> None:
        if self.is_busy:
            self.notify_user("An answer is being written; Esc stops it.")
            return
        # A backend that is closed while it loads would load on, and nobody would close it again.
        self.stop_preload()
        self.stop_token_count()
        try:
            self.chat_service.select_model(name)
        except PhichatError as error:
            self.notify_user(f"{error}", is_error=True)
            self.preload_model()
        else:
            self.on_model_switched(self.chat_service.model_name)

    @property
    def current_model(self) -> str:
        """The name of the model that answers, "" while nobody knows."""
        raise NotImplementedError

    def on_model_switched(self, name: str) -> None:
        """Another model answers from the next turn on."""
        raise NotImplementedError

    def on_model_unloaded(self) -> None:
        """No model is in memory."""
        raise NotImplementedError

    def preload_model(self) -> None:
        """Bring the model into memory while the user types."""
        raise NotImplementedError

    def stop_preload(self) -> None:
        """End the loading that goes on beside the typing, and wait for it."""
        raise NotImplementedError

    def _start_download(self, entry: CatalogEntry) -> None:
        if self.download is not None:
            self.notify_user(
                f"{self.download.model_name} is being downloaded; it ends or is stopped with Ctrl+X first."
            )
            return

        def on_progress(status: str) -> None:
            self.call_later(self.set_background_status, status)

        def on_done(error: PhichatError | None) -> None:
            self.call_later(self._on_download_finished, entry, error)

        self.notify_user(f"Downloading {entry.name}; Ctrl+X stops it, and the next time goes on where it ended.")
        self.download = DownloadThread(
            entry.name, partial(self.chat_service.catalog.download_model, entry.name), on_progress, on_done
        )

    def _on_download_finished(self, entry: CatalogEntry, error: PhichatError | None) -> None:
        download, self.download = self.download, None
        self.set_background_status("")
        if download is not None and download.was_cancelled:
            self.notify_user(f"The download of {entry.name} is stopped; what there is of it is kept.")
        elif error is not None:
            self.notify_user(f"{error}", is_error=True)
        else:
            self.notify_user(f"{entry.name} is here; Ctrl+O chooses it.")
            self.refresh_models()

    def action_stop_download(self) -> None:
        """Stop the download in the background."""
        if self.download is not None:
            self.download.cancel(0)
