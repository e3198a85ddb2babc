"""What the commands of a chat say."""

import pytest

from phichat.cancel import CancelToken
from phichat.chat.command_output import format_context, format_stats
from phichat.chat.conversation import Conversation
from phichat.engine.scripted_backend import ScriptedBackend, ScriptedReply
from phichat.errors import EngineCrashed
from phichat.types import FilePart, SamplingParams, TextPart


def test_context_names_exactly_the_turns_that_the_model_does_not_see() -> None:
    crash = EngineCrashed("The engine crashed", "ask again")
    backend = ScriptedBackend(
        [ScriptedReply(["w " * 15]), ScriptedReply(error=crash), ScriptedReply(["w " * 15]), ScriptedReply(["end"])],
        context=40,
    )
    talk = Conversation(lambda: backend)
    for prompt in ("first", "crashing", "second", "third"):
        if prompt == "crashing":
            with pytest.raises(EngineCrashed):
                list(talk.send(prompt, SamplingParams(), CancelToken()))
        else:
            list(talk.send(prompt, SamplingParams(), CancelToken()))
    lines = format_context(talk).splitlines()
    assert [line for line in lines if line[0].isdigit()][:4] == [
        "1. first (left out to make room)",
        "2. crashing (not sent: it was never answered)",
        "3. second (seen)",
        "4. third (seen)",
    ]
    assert "   prompt: about 2 tokens" in lines


def test_context_counts_the_text_and_each_file_exactly_where_a_model_counts() -> None:
    backend = ScriptedBackend([ScriptedReply(["fine"])])
    talk = Conversation(lambda: backend)
    parts = (FilePart("a.py", 6, "x = 1\n"), FilePart("b.txt", 5, "hello"), TextPart("Compare these"))
    list(talk.send(parts, SamplingParams(), CancelToken()))
    lines = format_context(talk, lambda text: len(text.split())).splitlines()
    assert lines[1:5] == ["1. Compare these (seen)", "   a.py: 7 tokens", "   b.txt: 5 tokens", "   prompt: 2 tokens"]
    assert backend.prompts[0][0].text == talk.branch[0].prompt
    assert talk.branch[0].parts == parts


def test_statistics_are_plain() -> None:
    talk = Conversation(lambda: ScriptedBackend([ScriptedReply(["one ", "two"])]))
    list(talk.send("hi", SamplingParams(seed=1), CancelToken()))
    text = format_stats(talk.branch[0])
    assert text.startswith("Prompt ")
    assert "left out" not in text
