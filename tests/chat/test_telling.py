"""What the commands of a chat say."""

import pytest

from phichat.chat.conversation import Conversation
from phichat.chat.telling import context_text
from phichat.engine.cancel import Cancel
from phichat.engine.scripted import Reply, ScriptedBackend
from phichat.errors import EngineCrashed
from phichat.messages import GenerationParams


def test_context_names_exactly_the_turns_that_the_model_does_not_see() -> None:
    crash = EngineCrashed("The engine crashed", "ask again")
    backend = ScriptedBackend([Reply(["w " * 15]), Reply(error=crash), Reply(["w " * 15]), Reply(["end"])], context=40)
    talk = Conversation(lambda: backend)
    for prompt in ("first", "crashing", "second", "third"):
        if prompt == "crashing":
            with pytest.raises(EngineCrashed):
                list(talk.send(prompt, GenerationParams(), Cancel()))
        else:
            list(talk.send(prompt, GenerationParams(), Cancel()))
    lines = context_text(talk).splitlines()
    seen = {title.partition(" ")[2]: about for title, about in zip(lines[1::2], lines[2::2], strict=False)}
    assert seen["first"].endswith("left out to make room")
    assert seen["crashing"].endswith("not sent again, for it has no answer")
    assert seen["second"].endswith(", seen")
    assert seen["third"].endswith(", seen")
