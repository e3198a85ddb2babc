"""A chat for tests and pictures: scripted replies, scripted models, kept conversations of fixed days."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from textual.pilot import Pilot

import phichat.tui.app
from phichat.cancel import CancelToken
from phichat.config.settings import Config
from phichat.engine.scripted_backend import ScriptedBackend, ScriptedReply
from phichat.errors import ModelDoesNotFit
from phichat.models.download.plan import DownloadPlan
from phichat.paths import Paths
from phichat.services.app_context import AppContext
from phichat.services.chat_service import ChatService
from phichat.services.model_catalog import CatalogEntry, ModelCatalog
from phichat.services.model_downloads import Confirm, DownloadFacts
from phichat.transcript.ids import make_ascending_ids
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.tui.app import PhichatApp
from phichat.types import FinishReason, ModelInfo, SamplingParams, Timings, Usage

DAY = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)

OFFERS = (
    CatalogEntry("phi-4-mini", installed=True, fits=True, summary="2.5 GB · Q4_K_M · hub"),
    CatalogEntry("smollm2-135m", installed=True, fits=True, summary="98 MB · Q4_1 · built in"),
    CatalogEntry("phi-4", installed=False, fits=False, summary="9.1 GB · best at explaining and Python"),
    CatalogEntry("phi-4-mini-reasoning", installed=False, fits=True, summary="2.5 GB · thinks before it answers"),
    CatalogEntry("phi-2", installed=False, fits=True, summary="1.8 GB · completes texts"),
)

FLATTEN = """There are two common ways.

**With `itertools.chain`**, which is lazy:

```python
from itertools import chain

def flatten(lists):
    return list(chain.from_iterable(lists))
```

**With a comprehension**, which some find easier to read:

```python
def flatten(lists):
    return [item for items in lists for item in items]
```

Both are linear; `sum(lists, [])` is *quadratic*."""

WARNED = """Read it with pandas, and total each month:

```python
import pandas as pd
from itertools import pairs

def monthly(path):
    table = pd.read_csv(path, parse_dates=["day"])
    return table.groupby(table.day.dt.month).amount.sum()
```

Call it with the path of the file."""

KEPT = (
    ("Flatten a list of lists", "How do I flatten a list of lists?", FLATTEN),
    ("Why is the sky blue?", "Why is the sky blue?", "Air scatters short waves more: *Rayleigh scattering*."),
    ("A name for a cat", "A name for a grey cat, please", "Call it Graphite."),
)


class ScriptedShelf(ModelCatalog):
    """Has what it is told to have."""

    def __init__(self, offers: Sequence[CatalogEntry]) -> None:
        self._offers = list(offers)

    def entries(self) -> Sequence[CatalogEntry]:
        return list(self._offers)

    def search_hub(self, words: str) -> Sequence[CatalogEntry]:
        return [CatalogEntry("bartowski/phi-4-GGUF", installed=False, summary="9.1 GB · Q4_K_M · 12,345 downloads")]

    def download_model(self, name: str, confirm: Confirm, cancel: CancelToken) -> Iterator[str]:
        size, problem = 2_000_000_000, ModelDoesNotFit(f"{name} needs 9.1 GB", "Choose a smaller model")
        plan = DownloadPlan(name, "owner/repo", (), licence="mit")
        fits = next(one.fits for one in self._offers if one.name == name)
        if not confirm(DownloadFacts(plan, size, False, None, does_not_fit=None if fits else problem)):
            return
        yield f"downloading {name} 40%"
        self._offers = [replace(one, installed=one.installed or one.name == name) for one in self._offers]


class DrawnApp(PhichatApp):
    """Draws the same each time: no cursor that blinks, and no font that a picture would fetch."""

    CSS_PATH = Path(phichat.tui.app.__file__).with_name("phichat.tcss")

    def export_screenshot(self, *, title: str | None = None, simplify: bool = False) -> str:
        drawn = super().export_screenshot(title=title or "phichat", simplify=simplify)
        # Textual names classes after a hash of what is drawn.
        drawn = re.sub(r"terminal-\d+", "terminal", drawn)
        return re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)

    def steady(self) -> None:
        """Whether a cursor that blinks is seen is chance."""
        for screen in self.screen_stack:
            for widget in screen.query("PromptInput, Input"):
                widget.cursor_blink = False  # type: ignore[attr-defined]


def desk(
    home: Path,
    *replies: ScriptedReply,
    context: int = 8192,
    offers: Sequence[CatalogEntry] = OFFERS,
    config: Config | None = None,
) -> ChatService:
    """A desk whose models answer what they are told to, and go by their names."""

    def backend(model: str | None) -> ScriptedBackend:
        return ScriptedBackend(replies or [ScriptedReply(["It ", "is ", "so."])], context, name=model or "phi-4-mini")

    made = ChatService(AppContext(config or Config(), Paths(home, home, home, home)), backend)
    made.catalog = ScriptedShelf(offers)
    return made


def keep(desk: ChatService) -> None:
    """Conversations of earlier days."""
    following = make_ascending_ids()
    for days, (title, prompt, text) in enumerate(KEPT):
        began = DAY - timedelta(days=3 * days)
        turn = TurnRecord(
            following(began),
            None,
            began,
            prompt,
            text,
            finished_at=began,
            finish_reason=FinishReason.STOP,
            model=ModelInfo("phi-4-mini"),
            params=SamplingParams(),
            usage=Usage(20, 0, len(text.split())),
            timings=Timings(generation_s=len(text.split()) / 12.5),
            n_ctx=8192,
        )
        desk.transcripts.get_store().add_conversation(
            ConversationRecord(following(began), title, began, began, (turn,), turn.id)
        )


@contextmanager
def clock_of_utc() -> Iterator[None]:
    """Times are shown as UTC, wherever the machine is."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    if hasattr(time, "tzset"):
        time.tzset()
    try:
        yield
    finally:
        os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
        if hasattr(time, "tzset"):
            time.tzset()


def seen(pilot: Pilot[None]) -> str:
    """Return the text of the screen."""
    lines = pilot.app.screen._compositor.render_strips()
    return "\n".join(line.text.rstrip() for line in lines)


async def settle(pilot: Pilot[None]) -> None:
    """Wait until the screen has not changed for three looks, as a busy machine draws late."""
    same, shown = 0, seen(pilot)
    while same < 3:
        await pilot.pause(0.05)
        before, shown = shown, seen(pilot)
        same = same + 1 if shown == before else 0


async def until(pilot: Pilot[None], text: str) -> str:
    """Wait until the screen shows a text; return the whole screen."""
    for _ in range(150):
        await pilot.pause(0.02)
        shown = seen(pilot)
        if text in shown:
            return shown
    raise AssertionError(f"{text!r} is not to be seen in:\n{seen(pilot)}")
