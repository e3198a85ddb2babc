"""What people do in the chat every day, and the keys it takes: played by a test, written down in docs/tui-tasks.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from phichat.engine.scripted_backend import ScriptedReply
from phichat.tui.app import PhichatApp
from phichat.tui.screens.chat import ChatScreen
from support import tui_harness


@dataclass(frozen=True)
class Text:
    """What is typed letter by letter."""

    text: str


@dataclass(frozen=True)
class Sees:
    """Nothing is pressed: this text is waited for."""

    text: str


@dataclass(frozen=True)
class Task:
    """steps: keys by Textual's names, texts, and what is seen in between. asked: said before it begins.

    came_true: of the app and the folder that it runs in, at the end.
    """

    name: str
    steps: Sequence[str | Text | Sees]
    asked: Sequence[str] = ()
    replies: Sequence[ScriptedReply] = (ScriptedReply(re.split(r"(?<= )", tui_harness.FLATTEN)),)
    came_true: Callable[[PhichatApp, Path], bool] = field(default=lambda app, folder: True)

    @property
    def keys(self) -> list[str]:
        """Those beyond the text."""
        return [step for step in self.steps if isinstance(step, str)]


def _chat(app: PhichatApp) -> ChatScreen:
    return next(screen for screen in app.screen_stack if isinstance(screen, ChatScreen))


WARNED = (ScriptedReply(re.split(r"(?<= )", tui_harness.WARNED)),)
SLOW = (ScriptedReply(["word "] * 3000, delay_s=0.005),)
TWO = (ScriptedReply(["the first answer"]), ScriptedReply(["the second answer"]))
THREE = ("one?", "two?", "three?")

TASKS = (
    Task("Start, and try one of the examples", ["1", "enter", "enter", Sees("quadratic")]),
    Task("Ask something", [Text("How, please?"), "enter", Sees("quadratic")]),
    Task("Stop the answer", [Text("Go"), "enter", Sees("word word"), "escape", Sees("stopped")], replies=SLOW),
    Task("Continue yesterday's conversation", ["f2", "enter", Sees("quadratic")]),
    Task("Find last week's answer", ["f2", Text("scatter"), "enter", Sees("Rayleigh")]),
    Task(
        "Delete a conversation, and undo",
        ["f2", Sees("sky blue"), "down", "d", Sees("Deleted"), "u", Sees("Restored")],
        came_true=lambda app, folder: len(app.chat_service.transcripts.list_entries("")) == len(tui_harness.KEPT),
    ),
    Task(
        "Switch to another model",
        ["ctrl+o", Text("smol"), "enter", Sees("smollm2-135m  0 of")],
        came_true=lambda app, folder: app.chat_service.model_name == "smollm2-135m",
    ),
    Task("Download a model", ["ctrl+o", Text("phi-2"), "enter", Sees("phi-2 downloaded")]),
    Task("Attach a file", [Text("Sum up @notes"), "tab", Sees("⟦notes.txt: 11 tokens⟧")]),
    Task(
        "Change the second question",
        ["ctrl+t", "up", "e", Text(", put better"), "enter", Sees("2 of 2")],
        asked=THREE,
        came_true=lambda app, folder: (
            [turn.prompt for turn in _chat(app).context.conversation.branch] == [THREE[0], THREE[1] + ", put better"]
        ),
    ),
    Task(
        "Regenerate the answer, and compare the two",
        ["ctrl+r", Sees("second answer"), "ctrl+t", "left", Sees("first answer"), "right", Sees("second answer")],
        asked=["Why?"],
        replies=TWO,
    ),
    Task(
        "Copy the code",
        ["ctrl+t", "y", Sees("Copied the code")],
        asked=["Total it"],
        replies=WARNED,
        came_true=lambda app, folder: app.clipboard.startswith("import pandas"),
    ),
    Task(
        "Save the code to a file",
        ["ctrl+t", "s", "enter", Sees("Saved")],
        asked=["Total it"],
        replies=WARNED,
        came_true=lambda app, folder: "import pandas" in (folder / "code.py").read_text(),
    ),
    Task(
        "See the code warnings",
        ["ctrl+down", Sees("needs pandas (pip install pandas)")],
        asked=["Total it"],
        replies=WARNED,
    ),
    Task(
        "Export the conversation to HTML",
        [Text("/export html"), "enter", Sees("Saved")],
        asked=["How?"],
        came_true=lambda app, folder: "<html" in (folder / "conversation.html").read_text("utf-8"),
    ),
    Task(
        "Change the theme",
        ["ctrl+p", Text("theme"), Sees("Change theme"), "enter", Text("high"), Sees("high-contrast"), "enter"],
        came_true=lambda app, folder: app.theme == "high-contrast" == app.chat_service.ui_state.theme,
    ),
    Task(
        "Set the system prompt",
        [Text("/system Be brief"), "enter", Sees("System prompt set")],
        came_true=lambda app, folder: _chat(app).context.conversation.system == "Be brief",
    ),
    Task(
        "See what the model sees",
        [Text("/context"), "enter", Sees("answer: 46 tokens")],
        asked=THREE,
    ),
    Task("Unload the model", ["ctrl+o", "ctrl+u", Sees("unloaded")]),
    Task("Quit (everything is saved)", ["ctrl+q"], came_true=lambda app, folder: not app.is_running),
)
