"""The chat screen: composes the widgets and controllers, binds keys, and forwards messages."""

import gc
from collections.abc import Iterator
from functools import partial
from time import monotonic
from typing import ClassVar

from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.events import Resize
from textual.screen import Screen

from phichat.chat.conversation import Conversation
from phichat.chat.slash_commands import COMMANDS, Command
from phichat.services.chat_service import ChatService
from phichat.tui.controllers.commands import CommandController
from phichat.tui.controllers.context import ChatContext
from phichat.tui.help import filter_bindings, format_keys
from phichat.tui.widgets.conversation import ConversationView
from phichat.tui.widgets.prompt import PromptInput
from phichat.tui.widgets.sidebar import Sidebar
from phichat.tui.widgets.welcome import Welcome

_DOUBLE_PRESS_S = 1.5
_SHUTDOWN_TIMEOUT_S = 2.0
_GC_THRESHOLDS = (2_000, 10, 50)
"""Thresholds of the garbage collector. A drawing makes thousands of objects; a full collection takes longer than
several drawings."""


class ChatScreen(Screen[None]):
    """The conversation, the prompt box, the sidebar, and the status line."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop_generation", "Stop the answer / back to the prompt"),
        Binding("f1", "show_help", "Keys and commands"),
        Binding("f2,ctrl+b", "toggle_sidebar", "Conversations and search"),
        Binding("ctrl+o", "pick_model", "Models"),
        Binding("ctrl+n", "new_conversation", "New conversation"),
        Binding("ctrl+t", "focus_turns", "Select a turn"),
        Binding("ctrl+r", "regenerate", "Regenerate"),
        Binding("ctrl+up", "jump_to_warning(-1)", "Previous code warning"),
        Binding("ctrl+down", "jump_to_warning(1)", "Next code warning"),
        Binding("ctrl+g", "open_editor", "Edit the prompt in $EDITOR"),
        Binding("ctrl+x", "stop_download", "Stop the download"),
        Binding("ctrl+l", "redraw", "Redraw the screen"),
    ]

    def __init__(self, service: ChatService, conversation: Conversation | None = None) -> None:
        super().__init__()
        self.context = context = ChatContext(self, service, conversation or service.new_conversation())
        self.commands = commands = CommandController(context)
        self.runner, self.conversations, turns = commands.runner, commands.conversations, commands.turns
        self.models, self.prompts = commands.models, commands.prompts
        report_errors = context.report_errors()
        # Textual looks up the action of a key by this name on the screen.
        self.action_copy_answer = turns.copy_answer
        self.action_copy_code = turns.copy_code
        self.action_save_code = turns.save_code
        self.action_regenerate = report_errors(turns.regenerate)
        self.action_edit_prompt = turns.edit_prompt
        self.action_fork_conversation = partial(commands.run, Command("fork"))
        self.action_delete_turn = turns.delete
        self.action_show_sibling = report_errors(turns.show_sibling)
        self.action_new_conversation = partial(commands.run, Command("new"))
        self.action_toggle_sidebar = self.conversations.toggle_sidebar
        self.action_pick_model = self.models.pick
        self.action_unload_model = self.models.unload
        self.action_stop_download = self.models.stop_download
        self.action_open_editor = self.prompts.open_editor
        self.action_show_help = commands.run_help
        self.action_jump_to_warning = context.view.action_next_warning
        self.action_jump_to_top = context.view.action_jump_to_top
        self.action_jump_to_end = context.view.action_jump_to_end
        self._interrupted_at = 0.0

    def compose(self) -> ComposeResult:
        context = self.context
        with Horizontal(id="main"):
            yield context.sidebar
            with Vertical(id="talk"):
                yield context.welcome
                yield context.view
                yield context.completions
                yield context.prompt
        yield context.status_line

    def on_mount(self) -> None:
        context = self.context
        context.view.display = False
        if context.conversation.branch:
            context.open_conversation(context.conversation)
        context.prompt.focus()
        context.prompt.set_text(*context.service.ui_state.load_draft())
        context.status_line.update_status(model=context.service.model_name)

    def finish_startup(self) -> None:
        """Load the model and list models, which can wait until the screen is drawn."""
        # The collector stops all threads, so it need not traverse the objects of the start-up each time.
        # Only once, because a frozen object is never collected.
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        gc.enable()
        self.runner.preload()
        self.models.refresh_welcome()

    def iter_palette_commands(self) -> Iterator[SystemCommand]:
        """Yield the actions of the keys, and the slash commands."""
        turn_bindings = (
            each for each in filter_bindings(ConversationView.BINDINGS) if each.action.startswith("screen.")
        )
        for binding in (*filter_bindings(self.BINDINGS), *turn_bindings):
            action = partial(self.run_action, binding.action.removeprefix("screen."))
            yield SystemCommand(f"{binding.description} ({format_keys(binding)})", "", action)
        yield SystemCommand("Unload the model (Ctrl+U in the model list)", "", self.action_unload_model)
        for command in COMMANDS:
            title = f"{command.description[0].upper()}{command.description[1:]} (/{command.name})"
            if command.usage_args and not command.usage_args.startswith("["):
                yield SystemCommand(title, "", partial(self.context.prompt.set_text, f"/{command.name} "))
            else:
                yield SystemCommand(title, "", partial(self.commands.run, Command(command.name)))

    # Messages

    def on_resize(self, event: Resize) -> None:
        self.context.sidebar.adapt_to_width(event.size.width)

    def on_text_area_changed(self) -> None:
        self.runner.on_typing()
        self.prompts.update_completions()

    def on_prompt_input_submitted(self, message: PromptInput.Submitted) -> None:
        with self.context.report_errors():
            self.commands.submit(message.text, message.parts)

    def on_prompt_input_completion_key(self, message: PromptInput.CompletionKey) -> None:
        self.prompts.handle_completion_key(message.key)

    def on_sidebar_search_requested(self, message: Sidebar.SearchRequested) -> None:
        self.conversations.search(message.query)

    def on_sidebar_action_requested(self, message: Sidebar.ActionRequested) -> None:
        self.conversations.run_action(message.action_name, message.entry)

    def on_welcome_model_picked(self, message: Welcome.ModelPicked) -> None:
        choose = self.models.switch if message.entry.installed else self.models.pick
        choose(message.entry.name)
        self.context.prompt.focus()

    def on_welcome_example_picked(self, message: Welcome.ExamplePicked) -> None:
        self.context.prompt.set_text(message.prompt)
        self.context.prompt.focus()

    # Keys

    def action_stop_generation(self) -> None:
        """Stop the answer; without one, close the sidebar or go back to the prompt."""
        if self.runner.stop():
            return
        if self.context.sidebar.is_open:
            self.conversations.toggle_sidebar()
        else:
            self.context.view.select_turn(None)
            self.context.prompt.focus()

    def handle_interrupt(self) -> None:
        """Copy the selected text, else stop the answer; the second Ctrl+C in a row quits."""
        if selected_text := self.get_selected_text():
            self.app.copy_to_clipboard(selected_text)
            self.clear_selection()
            return
        now = monotonic()
        if now - self._interrupted_at < _DOUBLE_PRESS_S:
            self.save_and_quit()
            return
        self._interrupted_at = now
        if not self.runner.stop():
            self.context.notify("Press Ctrl+C again to quit.")

    def action_focus_turns(self) -> None:
        """Move the focus to the turns, and select the last one."""
        self.context.view.focus()
        self.context.view.action_select_step(0)

    def action_scroll_page(self, pages: int) -> None:
        """Scroll the conversation while the prompt box keeps the focus."""
        view = self.context.view
        view.scroll_relative(y=pages * (view.size.height - 2), animate=False)

    def action_redraw(self) -> None:
        """Draw everything again, after another program has written to the terminal."""
        self.refresh(repaint=True, layout=True)

    def save_and_quit(self) -> None:
        """Save the draft, stop everything, and end the app."""
        self.context.service.ui_state.save_draft(self.context.prompt.text, self.context.prompt.pastes)
        self.shut_down()
        self.app.exit()

    def shut_down(self) -> None:
        """Stop everything; the part of an answer generated so far is recorded."""
        self.runner.shut_down()
        self.models.stop_download(_SHUTDOWN_TIMEOUT_S)
        self.context.service.close()
