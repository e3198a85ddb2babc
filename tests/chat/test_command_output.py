"""What the commands of a chat say."""

import pytest

from phichat.cancel import CancelToken
from phichat.chat.command_output import format_context
from phichat.chat.conversation import Conversation
from phichat.engine.scripted_backend import FakeBackend, FakeReply
from phichat.errors import EngineCrashed
from phichat.types import SamplingParams


def test_context_names_exactly_the_turns_that_the_model_does_not_see() -> None:
    crash = EngineCrashed("The engine crashed", "ask again")
    backend = FakeBackend(
        [FakeReply(["w " * 15]), FakeReply(error=crash), FakeReply(["w " * 15]), FakeReply(["end"])], context=40
    )
    talk = Conversation(lambda: backend)
    for prompt in ("first", "crashing", "second", "third"):
        if prompt == "crashing":
            with pytest.raises(EngineCrashed):
                list(talk.send(prompt, SamplingParams(), CancelToken()))
        else:
            list(talk.send(prompt, SamplingParams(), CancelToken()))
    lines = format_context(talk).splitlines()
    seen = {title.partition(" ")[2]: about for title, about in zip(lines[1::2], lines[2::2], strict=False)}
    assert seen["first"].endswith("left out to make room")
    assert seen["crashing"].endswith("not sent: it was never answered")
    assert seen["second"].endswith(", seen")
    assert seen["third"].endswith(", seen")
