"""The full-screen chat on a scripted model: a long conversation to begin with, then endless text at a given pace.

python benchmarks/scripted_chat.py FOLDER CHARACTERS TOKENS_PER_SECOND
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from phichat.chat.conversation import Conversation
from phichat.config.settings import Config
from phichat.engine.scripted_backend import ScriptedBackend, ScriptedReply
from phichat.paths import Paths
from phichat.services.app_context import AppContext
from phichat.services.chat_service import ChatService
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.tui.app import PhichatApp
from phichat.types import FinishReason

ANSWER = """## On lists

A paragraph with **bold** words and `code` that is long enough to be wrapped on any terminal of ordinary width.

1. first
2. second, with more words than the first

```python
import itertools

def pairs(items):
    return list(itertools.pairwise(items))
```

| name | value |
|---|---|
| one | 1 |

"""


def conversation(backend: ScriptedBackend, characters: int) -> Conversation:
    """A kept conversation of about so many characters."""
    now = datetime.now(UTC)
    turns = [
        TurnRecord(
            f"{number:06}",
            f"{number - 1:06}" if number else None,
            now,
            f"question {number}",
            ANSWER * 4,
            finish_reason=FinishReason.STOP,
        )
        for number in range(characters // (len(ANSWER) * 4))
    ]
    record = ConversationRecord("0", "long", now, now, tuple(turns), turns[-1].id if turns else None)
    return Conversation(lambda: backend, record=record)


def main() -> None:
    folder, characters, pace = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    words = [piece + " " for piece in (ANSWER * 2000).split(" ")]
    backend = ScriptedBackend([ScriptedReply(words, delay_s=1 / pace)], 10**9)
    desk = ChatService(AppContext(Config(), Paths(folder, folder, folder, folder)), lambda model: backend)
    PhichatApp(desk, conversation(backend, characters)).run()


if __name__ == "__main__":
    main()
