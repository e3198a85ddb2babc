"""Several replies to one prompt from one engine process."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from phichat.cancel import CancelToken
from phichat.config.settings import EngineOptions
from phichat.engine.autotune.cpu_buffer_probe import ProbeCache
from phichat.engine.local import LocalBackend
from phichat.errors import ContextOverflow
from phichat.events import PromptProgress, SampleFinished, TurnFinished
from phichat.types import FinishReason, Message, Role, SamplingParams
from support.demo_model import embedded_model
from support.tiny_gguf import write_tiny_llama

ASKED = (Message(Role.USER, "Tell me about the sea and the ships."),)
SHORT = SamplingParams(seed=5, max_tokens=12)


@pytest.fixture
def backends(tmp_path: Path) -> Iterator[Any]:
    made: list[LocalBackend] = []

    def make(path: Path | None = None, ctx_size: int = 1024) -> LocalBackend:
        backend = LocalBackend(
            "m", path or embedded_model(), EngineOptions(ctx_size=ctx_size), ProbeCache(tmp_path / "engine.json")
        )
        made.append(backend)
        list(backend.load(CancelToken()))
        return backend

    yield make
    for backend in made:
        backend.close()


def sample(backend: LocalBackend, number: int, params: SamplingParams = SHORT) -> list[TurnFinished]:
    """By their number."""
    events = list(backend.generate_n(ASKED, params, number, CancelToken()))
    ends = {event.index: event.reply for event in events if isinstance(event, SampleFinished)}
    assert sorted(ends) == list(range(number))
    assert isinstance(events[0], PromptProgress)
    return [ends[at] for at in range(number)]


def texts(replies: Sequence[TurnFinished]) -> list[str]:
    return [reply.text for reply in replies]


def test_the_same_seeds_give_the_same_samples_whether_the_prompt_is_cached_or_not(backends: Any) -> None:
    backend = backends()
    first, again, other = sample(backend, 5), sample(backend, 5), sample(backends(), 5)
    assert texts(first) == texts(again) == texts(other)
    assert len(set(texts(first))) > 1
    assert [reply.seed for reply in first] == [5, 6, 7, 8, 9]
    assert first[0].usage.cached_tokens == 0
    assert again[0].usage.cached_tokens == again[0].usage.prompt_tokens - 1
    assert {reply.usage.completion_tokens for reply in first} <= set(range(1, 13))


def test_each_sample_is_what_the_model_says_with_its_seed(backends: Any, tmp_path: Path) -> None:
    # Greedily, where the rounding of a batch that is as wide as the samples are decides nothing.
    backend = backends()
    greedy = SamplingParams(temperature=0, max_tokens=24)
    alone = list(backend.generate(ASKED, greedy, CancelToken()))[-1]
    assert texts(sample(backend, 3, greedy)) == [alone.text] * 3


def test_more_samples_than_are_written_at_once(backends: Any) -> None:
    assert all(texts(sample(backends(), 12)))


def test_samples_that_do_not_fit_the_context_together_come_all(backends: Any, tmp_path: Path) -> None:
    backend = backends(ctx_size=128)
    replies = sample(backend, 5, SamplingParams(seed=2, max_tokens=40))
    assert sum(reply.usage.completion_tokens for reply in replies) > 128
    assert {reply.finish_reason for reply in replies} <= {FinishReason.STOP, FinishReason.LENGTH}
    full = sample(backend, 2, SamplingParams(seed=2, temperature=5, top_k=0, top_p=1, min_p=0))
    assert all(reply.usage.prompt_tokens + reply.usage.completion_tokens > 128 for reply in full)


def test_stop_strings_end_each_sample_on_its_own(backends: Any) -> None:
    replies = sample(backends(), 4, SamplingParams(seed=3, max_tokens=40, stop=("the",)))
    assert all("the" not in reply.text for reply in replies)
    assert len({reply.usage.completion_tokens for reply in replies}) > 1


def test_what_was_said_until_a_cancel_is_kept(backends: Any, tmp_path: Path) -> None:
    backend, cancel, ends = backends(), CancelToken(), []
    for event in backend.generate_n(ASKED, SamplingParams(seed=1), 3, cancel):
        if isinstance(event, SampleFinished):
            ends.append(event.reply)
        elif not isinstance(event, PromptProgress) and event.tokens > 12:
            cancel.set()
    assert [end.finish_reason for end in ends] == [FinishReason.CANCELLED] * 3
    assert all(end.text for end in ends)
    assert list(backend.generate(ASKED, SHORT, CancelToken()))[-1].text


def test_a_prompt_that_does_not_fit_is_told(backends: Any, tmp_path: Path) -> None:
    backend = backends(write_tiny_llama(tmp_path / "t.gguf"), ctx_size=64)
    with pytest.raises(ContextOverflow):
        list(backend.generate_n((Message(Role.USER, "word " * 200),), SHORT, 2, CancelToken()))
