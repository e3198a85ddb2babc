"""Replies run again: the real embedded model says the same, and what differs is named."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from phichat.cancel import CancelToken
from phichat.chat.context_window import Turn, TurnHistory
from phichat.chat.pipeline import TurnPipeline
from phichat.chat.replay import ReplayResult, find_first_difference, replay_turns
from phichat.config.settings import EngineOptions
from phichat.engine.autotune.cpu_buffer_probe import ProbeCache
from phichat.engine.backend import Backend
from phichat.engine.local import LocalBackend
from phichat.engine.scripted_backend import ScriptedBackend, ScriptedReply
from phichat.events import ModelReady, TurnFinished
from phichat.transcript.records import TurnRecord
from phichat.types import FinishReason, ModelInfo, SamplingParams, Usage
from support.demo_model import embedded_model

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def backend(home: Path) -> LocalBackend:
    return LocalBackend("smollm2", embedded_model(), EngineOptions(ctx_size=1024), ProbeCache(home / "engine.json"))


def said(home: Path, *prompts: str, is_talk: bool = True, system: str | None = None) -> list[TurnRecord]:
    """What one engine answers, in one conversation or in several, as a transcript keeps it."""
    engine, turns, model = backend(home), list[TurnRecord](), ModelInfo("")
    history: list[Turn] = []
    for number, prompt in enumerate(prompts):
        params = SamplingParams(max_tokens=24)
        for event in TurnPipeline(engine).run(TurnHistory(system, history, prompt), params, CancelToken()):
            if isinstance(event, ModelReady):
                model = event.model
            if isinstance(event, TurnFinished):
                turns.append(
                    TurnRecord(
                        *(str(number), None, NOW, prompt, event.text),
                        system=system,
                        finish_reason=event.finish_reason,
                        model=model,
                        params=params,
                        seed=event.seed,
                        usage=event.usage,
                        n_ctx=event.n_ctx,
                    )
                )
                history += [Turn(prompt, event.text)] * is_talk
    engine.close()
    return turns


def again(
    turns: Sequence[TurnRecord], engine: Backend, number: int | None = None, **params: object
) -> list[ReplayResult]:
    return list(
        replay_turns(
            turns,
            number,
            lambda _: engine,
            lambda recorded: replace(recorded, **params),  # type: ignore[arg-type]
            lambda _: None,
            CancelToken(),
        )
    )


def test_a_seeded_conversation_comes_out_the_same(tmp_path: Path) -> None:
    turns = said(tmp_path, "Tell me about the sea.", "And the wind?")
    assert turns[1].usage is not None
    assert turns[1].usage.cached_tokens > 0
    for number in (None, 1, 2):
        found = again(turns, backend(tmp_path), number)
        assert [one.first_difference for one in found] == [None] * len(found)
        assert [one.turn_number for one in found] == ([1, 2] if number is None else [number])
        assert all(not one.changes for one in found)
    [other, _] = again(turns, backend(tmp_path), temperature=5.0)
    assert other.first_difference is not None
    assert other.changes == {"settings": "temperature 0.8, now 5.0"}


def test_a_reply_of_an_engine_that_had_answered_something_else(tmp_path: Path) -> None:
    system = "You answer as a captain who has seen all the seas. " * 8
    [_, second] = said(tmp_path, "What is snow?", "Tell me about the sea.", is_talk=False, system=system)
    assert second.usage is not None
    assert second.usage.cached_tokens > 64
    runs = ScriptedBackend([ScriptedReply(["x"])])
    again([second], runs)
    assert [[message.text for message in messages] for messages in runs.prompts] == [
        [system, "."],
        [system, "Tell me about the sea."],
    ]
    [found] = again([second], backend(tmp_path))
    assert (found.first_difference, found.changes) == (None, {})


RECORDED = TurnRecord(
    *("1", None, NOW, "p", "the answer"),
    finish_reason=FinishReason.STOP,
    model=ModelInfo("scripted", architecture="scripted", n_ctx=4096, n_layers=1),
    params=SamplingParams(),
    seed=0,
    usage=Usage(1, 0, 2),
    n_ctx=4096,
)


@pytest.mark.parametrize(
    ("then", "changed"),
    [
        ({}, set()),
        ({"sha256": "a"}, set()),
        ({"size": 5}, {"model"}),
        ({"modified_ns": 5}, {"model"}),
        ({"template_sha256": "a"}, {"template"}),
        ({"library": "0.1"}, {"library"}),
        ({"devices": ("A GPU",), "n_gpu_layers": 1}, {"hardware"}),
        ({"threads": 2, "library": "0.1"}, {"library", "hardware"}),
    ],
)
def test_what_has_changed_is_named(then: dict[str, object], changed: set[str]) -> None:
    assert RECORDED.model is not None
    turn = replace(RECORDED, model=replace(RECORDED.model, **then))  # type: ignore[arg-type]
    [found] = again([turn], ScriptedBackend([ScriptedReply(["the ", "answer"])]))
    assert (set(found.changes), found.first_difference) == (changed, None)
    [found] = again([replace(turn, n_ctx=99)], ScriptedBackend([ScriptedReply(["the question"])]))
    assert (set(found.changes), found.first_difference) == (changed | {"settings"}, 4)


def test_the_history_is_the_recorded_one_as_the_model_saw_it() -> None:
    failed = replace(RECORDED, prompt="failed", text="", finish_reason=FinishReason.ERROR)
    cut = replace(RECORDED, prompt="cut", text="so far", finish_reason=None)
    last = replace(RECORDED, prompt="last", dropped_turns=1, system="s")
    engine = ScriptedBackend([ScriptedReply(["other"])])
    [first, second] = again([RECORDED, failed, cut, last], engine)
    assert (first.turn_number, second.turn_number) == (1, 4)
    assert [message.text for message in engine.prompts[-1]] == ["s", "cut", "so far", "last"]


def test_where_texts_differ() -> None:
    assert find_first_difference("", "") is None
    assert find_first_difference("abc", "ab") == 2
    assert find_first_difference("abc", "axc") == 1
