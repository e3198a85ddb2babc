"""Actions on models: choose, switch, unload and download."""

from concurrent.futures import Future, wait
from threading import Thread
from typing import Literal

from phichat.cancel import CancelToken
from phichat.errors import PhichatError
from phichat.services.model_catalog import CatalogEntry
from phichat.services.model_downloads import DownloadFacts
from phichat.tui.background import run_in_thread
from phichat.tui.controllers.context import ChatContext
from phichat.tui.controllers.turn_runner import TurnRunner
from phichat.tui.screens.dialogs import ConfirmDialog
from phichat.tui.screens.model_picker import ModelPicker

_CONFIRM_POLL_S = 0.1
"""Between two checks whether the download was stopped while the user is asked."""


class ModelController:
    """Switch the model that answers, and download one model at a time in the background."""

    def __init__(self, context: ChatContext, runner: TurnRunner) -> None:
        self._context, self._runner = context, runner
        self._download_name, self._download_cancel = "", CancelToken()
        self._download_thread: Thread | None = None

    def refresh_welcome(self) -> None:
        """Show the models on the welcome page; reading their headers takes a thread."""
        self._context.run_in_thread("models", self._context.service.catalog.entries, self._context.welcome.show_models)

    def pick(self, filter_text: str = "") -> None:
        """Open the list of models."""

        def on_pick(picked: CatalogEntry | Literal["unload"]) -> None:
            if picked == "unload":
                self.unload()
            elif picked.installed:
                self.switch(picked.name)
            else:
                self._start_download(picked.name)

        catalog, current_model = self._context.service.catalog, self._context.status_line.model
        self._context.ask(ModelPicker(catalog, current_model, filter_text), on_pick)

    def switch(self, name: str) -> None:
        """Make another model answer from the next turn on; errors are shown."""
        if not self._context.check_idle():
            return
        # A backend that is closed while it loads would finish loading, and nothing would close it again.
        self._runner.stop_preload()
        self._runner.stop_token_count()
        with self._context.report_errors():
            self._context.service.select_model(name)
            self._context.status_line.update_status(activity="", model=name, placement="", tokens_per_second=0.0)
        self._runner.preload()

    def unload(self) -> None:
        """Free the model's memory."""
        if not self._context.check_idle():
            return
        self._runner.stop_preload()
        self._context.service.unload_model()
        self._context.status_line.update_status(activity="", placement="unloaded", tokens_per_second=0.0)
        self._context.notify("Model unloaded. It reloads with your next prompt.")

    # Download

    def _start_download(self, name: str) -> None:
        if self._download_thread is not None:
            self._context.notify(f"Already downloading {self._download_name}. Wait for it, or press Ctrl+X to stop it.")
            return
        screen, cancel = self._context.screen, CancelToken()
        self._download_name, self._download_cancel = name, cancel
        self._context.notify(f"Downloading {name}. Ctrl+X stops it; the next download resumes where it left off.")

        def run() -> bool:
            """Return False if the user declined the download."""
            is_declined = False

            def confirm(facts: DownloadFacts) -> bool:
                nonlocal is_declined
                is_declined = not self._confirm_in_thread(facts, cancel)
                return not is_declined

            for progress in self._context.service.catalog.download_model(name, confirm, cancel):
                screen.call_later(self._context.status_line.update_status, download=progress)
            return not is_declined

        self._download_thread = run_in_thread(screen, "pull", run, self._on_download_end, self._on_download_end)

    def _confirm_in_thread(self, facts: DownloadFacts, cancel: CancelToken) -> bool:
        """Show the facts, ask only if the model does not fit, and wait for the answer or for the cancel."""
        answer, screen = Future[bool](), self._context.screen

        def show() -> None:
            self._context.notify(" ".join(facts.describe()))
            if facts.does_not_fit is None:
                answer.set_result(True)
            else:
                dialog = ConfirmDialog(f"{facts.does_not_fit}\nDownload it anyway?")
                screen.app.push_screen(dialog, lambda confirmed: answer.set_result(bool(confirmed)))

        screen.call_later(show)
        while not answer.done():
            if cancel.is_set():
                return False
            wait([answer], _CONFIRM_POLL_S)
        return answer.result()

    def _on_download_end(self, result: bool | PhichatError) -> None:
        name, self._download_thread = self._download_name, None
        self._context.status_line.update_status(download="")
        if self._download_cancel.is_set():
            self._context.notify(f"Download of {name} stopped. The partial file is kept.")
        elif isinstance(result, PhichatError):
            self._context.notify_error(result)
        elif result:
            self._context.notify(f"{name} downloaded. Press Ctrl+O to use it.")
            self.refresh_welcome()

    def stop_download(self, timeout_s: float = 0.0) -> None:
        """Stop the download, and wait up to timeout_s seconds for its end."""
        self._download_cancel.set()
        if self._download_thread is not None:
            self._download_thread.join(timeout_s)
