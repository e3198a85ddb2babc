"""The full-screen chat with hostile text on every surface: answers, reasoning, titles, names of models, errors.

python stress/payload_chat.py FOLDER PAYLOADS
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from phichat.config.settings import Config
from phichat.engine.scripted_backend import ScriptedBackend, ScriptedReply
from phichat.errors import EngineCrashed
from phichat.paths import Paths
from phichat.services.app_context import AppContext
from phichat.services.chat_service import ChatService
from phichat.services.model_catalog import CatalogEntry, ModelCatalog
from phichat.tui.app import PhichatApp


class HostileShelf(ModelCatalog):
    """Models whose names and descriptions are payloads."""

    def __init__(self, payloads: Sequence[str]) -> None:
        self._payloads = payloads

    def entries(self) -> Sequence[CatalogEntry]:
        return [CatalogEntry(f"m{text}", installed=False, summary=f"about {text}") for text in self._payloads[:400]]

    def search_hub(self, query: str, limit: int = 12, *, is_offline: bool = False) -> Sequence[CatalogEntry]:
        return self.entries()


def replies(payloads: Sequence[str]) -> list[ScriptedReply]:
    """Forty payloads a reply, each in another place of Markdown."""
    shapes = (
        "text {0} more",
        "`{0}`",
        "**{0}**",
        "# {0}",
        "- {0}",
        "[{0}](http://x/{0})",
        "![{0}]({0})",
        "| {0} | b |\n|---|---|\n| {0} | {0} |",
        "```{0}\n{0}\nimport nope{0}\n```",
        "> {0}",
    )
    made = []
    for begin in range(0, len(payloads), 40):
        part = payloads[begin : begin + 40]
        pieces = [shapes[index % len(shapes)].format(text) + "\n\n" for index, text in enumerate(part)]
        error = EngineCrashed(f"it died {part[0]}", f"ask {part[-1]}") if begin % 400 == 0 else None
        made.append(ScriptedReply(pieces, reasoning=part[:2], error=error))
    return made


def main() -> None:
    folder, payloads = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text("utf-8"))
    backend = ScriptedBackend(replies(payloads), 10**9, notices=tuple(payloads[:20]))
    desk = ChatService(AppContext(Config(), Paths(folder, folder, folder, folder)), lambda model: backend)
    desk.catalog = HostileShelf(payloads)
    desk.model_name = payloads[0]
    PhichatApp(desk).run()


if __name__ == "__main__":
    main()
