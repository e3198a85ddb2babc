"""Conversations and models beside the chat: looking for them, opening them, having them downloaded."""

from __future__ import annotations

from functools import partial
from threading import Thread

from textual.events import Resize
from textual.timer import Timer

from phichat.desk import EXPORTS, Listed
from phichat.engine.cancel import Cancel
from phichat.errors import PhichatError, UsageError
from phichat.shelf import ModelOffer
from phichat.tui.pulling import PullThread
from phichat.tui.screens.commanding import CommandingScreen
from phichat.tui.screens.dialogs import AskLine, Choice, Choose, Read
from phichat.tui.screens.models import ModelsScreen, Picked
from phichat.tui.widgets.sidebar import Sidebar
from phichat.tui.widgets.welcome import Welcome

_PAUSE_S = 0.12
"""After the last key before a search begins."""


class BrowsingScreen(CommandingScreen):
    """The sidebar and the model switcher."""

    _search_timer: Timer | None = None
    pulling: PullThread | None = None

    @property
    def sidebar(self) -> Sidebar:
        return self.query_one(Sidebar)

    def say_beside(self, word: str) -> None:
        """What goes on in the background, in the line of status."""
        raise NotImplementedError

    def on_resize(self, event: Resize) -> None:
        self.sidebar.fit(event.size.width)

    # Moving

    def action_redraw(self) -> None:
        """After something else has written to the terminal."""
        self.refresh(repaint=True, layout=True)

    def action_page(self, pages: int) -> None:
        """Scroll the conversation while the prompt keeps the keys."""
        self.conversation.scroll_relative(y=pages * (self.conversation.size.height - 2), animate=False)

    def action_to_top(self) -> None:
        """The beginning of the conversation."""
        self.conversation.action_to_top()

    def action_to_end(self) -> None:
        """The newest line."""
        self.conversation.action_to_end()

    # Conversations

    def action_sidebar(self) -> None:
        """Show or hide the conversations."""
        self.sidebar.toggle()
        if not self.sidebar.is_open:
            self.prompt.focus()

    def on_sidebar_wanted(self, message: Sidebar.Wanted) -> None:
        if self._search_timer is not None:
            self._search_timer.stop()
        self._search_timer = self.set_timer(_PAUSE_S if message.query else 0.001, partial(self._list, message.query))

    def _list(self, query: str) -> None:
        def run() -> None:
            try:
                listed = self.desk.listed(query)
            except PhichatError as error:
                self.call_later(self.tell, f"{error}", grave=True)
            else:
                self.call_later(self.sidebar.show, listed)

        Thread(target=run, name="list", daemon=True).start()

    def on_sidebar_chosen(self, message: Sidebar.Chosen) -> None:
        one = message.listed
        try:
            match message.act, one:
                case "open", Listed():
                    self._open(one)
                case "rename", Listed():
                    self._rename(one)
                case "delete", Listed():
                    self._delete(one)
                case "export", Listed():
                    self._export(one.id)
                case "undo", _:
                    word = self.desk.restore()
                    self.tell(word)
                    self._list("")
                case _:
                    pass
        except PhichatError as error:
            self.tell(f"{error}", grave=True)

    def _open(self, one: Listed) -> None:
        if self.is_busy:
            self.tell("An answer is being written; Esc stops it.")
            return
        talk = self.desk.opened(one.id)
        if one.turn:
            talk.show(one.turn)
        self.open(talk)
        if one.turn:
            found = next((turn for turn in self.conversation.turns if turn.id == one.turn), None)
            # Only what is laid out can be scrolled to; the first screen may just have gone.
            self.call_after_refresh(self.conversation.select, found)
        if self.sidebar.is_alone:
            self.sidebar.toggle()

    def _rename(self, one: Listed) -> None:
        def answered(title: str | None) -> None:
            if title:
                self.desk.rename(one.id, title)
                self._list("")

        self.app.push_screen(AskLine("Title", one.title), answered)

    def _delete(self, one: Listed) -> None:
        self.desk.delete(one.id)
        self.tell("Deleted; u brings it back until phichat ends.")
        if self.talk.id == one.id:
            self.open(self.desk.new_talk())
        self._list("")

    def _export(self, id: str) -> None:
        def chosen(format: str | None) -> None:
            if format is not None:
                self.app.push_screen(AskLine("Write it to", f"conversation.{format}"), partial(named, format))

        def named(format: str, name: str | None) -> None:
            if name:
                self._write_export(id, format, name)

        self.app.push_screen(Choose("Export as", [Choice(format, format) for format in EXPORTS]), chosen)

    def _write_export(self, id: str, format: str, name: str) -> None:
        try:
            self.save(name, self.desk.export(id, format))
        except PhichatError as error:
            self.tell(f"{error}", grave=True)

    def _do_export(self, rest: str) -> None:
        if self.talk.id is None:
            raise UsageError("This conversation is not kept yet", "ask something first")
        format, _, name = rest.partition(" ")
        if not format:
            self._export(self.talk.id)
        elif format not in EXPORTS:
            raise UsageError(f"There is no format {format!r}", "the formats are " + ", ".join(EXPORTS))
        else:
            self._write_export(self.talk.id, format, name.strip() or f"conversation.{format}")

    def _do_load(self, rest: str) -> None:
        if rest and self.is_busy:
            self.tell("An answer is being written; Esc stops it.")
        elif rest:
            self.open(self.desk.opened(rest))
        elif not self.sidebar.is_open:
            self.action_sidebar()

    def _do_replay(self, rest: str) -> None:
        if self.is_busy:
            self.tell("An answer is being written; Esc stops it.")
            return
        self.tell("Answering once more, to compare.")

        def run() -> None:
            try:
                word = self.desk.replay(self.talk, Cancel())
            except PhichatError as error:
                word = f"{error}"
            self.call_later(lambda: self.app.push_screen(Read("Replay", word)))

        Thread(target=run, name="replay", daemon=True).start()

    # Models

    def action_models(self, filter: str = "") -> None:
        """Choose another model, or have one downloaded."""

        def picked(pick: Picked | None) -> None:
            if pick is None:
                return
            if pick.offer is None:
                self.action_unload()
            elif pick.offer.installed:
                self._use(pick.offer.name)
            else:
                self._pull(pick.offer)

        shelf = self.desk.shelf
        self.app.push_screen(ModelsScreen(shelf.offers, shelf.search, self.model_in_use, filter), picked)

    def look_for_models(self) -> None:
        """Tell the first screen what is here: in a thread, for it reads headers."""
        welcome = self.query_one(Welcome)

        def run() -> None:
            try:
                offers = self.desk.shelf.offers()
            except PhichatError as error:
                self.call_later(self.tell, f"{error}", grave=True)
            else:
                welcome.post_message(Welcome.Found(offers))

        Thread(target=run, name="models", daemon=True).start()

    def on_welcome_wanted(self, message: Welcome.Wanted) -> None:
        if message.offer.installed:
            self._use(message.offer.name)
        else:
            self.action_models(message.offer.name)
        self.prompt.focus()

    def on_welcome_tried(self, message: Welcome.Tried) -> None:
        self.prompt.fill(message.prompt)
        self.prompt.focus()

    def action_unload(self) -> None:
        """Free the memory of the model; the next prompt loads it again."""
        if self.is_busy:
            self.tell("An answer is being written; Esc stops it.")
            return
        self.stop_loading()
        self.desk.unload()
        self.model_unloaded()
        self.tell("The memory is free; the next prompt loads the model again.")

    def _do_model(self, rest: str) -> None:
        if rest:
            self._use(rest)
        else:
            self.action_models()

    def _use(self, name: str) -> None:
        if self.is_busy:
            self.tell("An answer is being written; Esc stops it.")
            return
        # A backend that is closed while it loads would load on, and nobody would close it again.
        self.stop_loading()
        self.stop_counting()
        try:
            self.desk.choose_model(name)
        except PhichatError as error:
            self.tell(f"{error}", grave=True)
            self.load()
        else:
            self.model_chosen(self.desk.model_name)

    @property
    def model_in_use(self) -> str:
        """The name of the model that answers, "" while nobody knows."""
        raise NotImplementedError

    def model_chosen(self, name: str) -> None:
        """Another model answers from the next turn on."""
        raise NotImplementedError

    def model_unloaded(self) -> None:
        """No model is in memory."""
        raise NotImplementedError

    def load(self) -> None:
        """Bring the model into memory while the user types."""
        raise NotImplementedError

    def stop_loading(self) -> None:
        """End the loading that goes on beside the typing, and wait for it."""
        raise NotImplementedError

    def _pull(self, offer: ModelOffer) -> None:
        if self.pulling is not None:
            self.tell(f"{self.pulling.name} is being downloaded; it ends or is stopped with Ctrl+X first.")
            return

        def progress(word: str) -> None:
            self.call_later(self.say_beside, word)

        def done(error: PhichatError | None) -> None:
            self.call_later(self._pulled, offer, error)

        self.tell(f"Downloading {offer.name}; Ctrl+X stops it, and the next time goes on where it ended.")
        self.pulling = PullThread(offer.name, partial(self.desk.shelf.pull, offer.name), progress, done)

    def _pulled(self, offer: ModelOffer, error: PhichatError | None) -> None:
        pulling, self.pulling = self.pulling, None
        self.say_beside("")
        if pulling is not None and pulling.was_cancelled:
            self.tell(f"The download of {offer.name} is stopped; what there is of it is kept.")
        elif error is not None:
            self.tell(f"{error}", grave=True)
        else:
            self.tell(f"{offer.name} is here; Ctrl+O chooses it.")
            self.look_for_models()

    def action_stop_pull(self) -> None:
        """Stop the download in the background."""
        if self.pulling is not None:
            self.pulling.cancel(0)
