"""Replay: generate recorded replies again, and compare.

A reply depends on more than its prompt and its seed: a turn whose history was in the KV cache was evaluated in other
batches than one that started empty, and sums then differ in their last bits. So the count of cached tokens decides in
which state of the engine a turn is replayed: a fresh engine; the engine that just answered the turn before; or an
engine that answered something else with the same beginning. The history is always the recorded one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, fields, replace
from itertools import chain, zip_longest

from phichat.chat.context_window import Turn, TurnHistory
from phichat.chat.pipeline import TurnPipeline
from phichat.engine.backend import Backend, CancelToken
from phichat.events import Event, ModelReady, TurnFinished
from phichat.transcript.records import TurnRecord
from phichat.types import FinishReason, ModelInfo, SamplingParams

MAX_SHOWN_CHARS = 40
"""Characters of each reply that are shown after the first difference."""


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """A replayed turn.

    turn_number: in its branch, from 1. recorded, replayed: the reasoning and the text after it. first_difference: index
    of a character in both, None when they are identical. changes: description of each change since (of the model,
    template, library, hardware, settings, cache).
    """

    turn_number: int
    recorded: str
    replayed: str
    first_difference: int | None
    changes: Mapping[str, str]


def is_replayable(turn: TurnRecord) -> bool:
    """Return whether the reply is complete, and its model, parameters and seed are known."""
    ended = turn.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
    return ended and None not in (turn.params, turn.seed, turn.model)


def replay_turns(
    branch: Sequence[TurnRecord],
    turn_number: int | None,
    create_backend: Callable[[TurnRecord], Backend],
    override_params: Callable[[SamplingParams], SamplingParams],
    on_progress: Callable[[Event], None],
    cancel: CancelToken,
) -> Iterator[ReplayResult]:
    """Replay the turns of a branch that are replayable, or only the one with this number (from 1).

    create_backend: makes the backend that answered a turn. override_params: changes recorded parameters.
    Raises what `TurnPipeline.run` and `create_backend` raise.
    """
    first, last = (0, len(branch)) if turn_number is None else (turn_number - 1, turn_number)
    while _shares_engine_with_previous(branch, first):
        first -= 1
    backend: Backend | None = None
    loaded_model: ModelInfo | None = None
    with ExitStack() as stack:
        for index in range(first, last):
            turn = branch[index]
            if not is_replayable(turn):
                continue
            shares_engine = _shares_engine_with_previous(branch, index)
            if backend is None or not shares_engine:
                stack.close()
                backend = stack.enter_context(closing(create_backend(turn)))
            assert turn.params is not None
            params = override_params(replace(turn.params, seed=turn.seed))
            answered = [Turn(earlier.parts, earlier.text) for earlier in branch[:index] if earlier.text]
            seen = answered[turn.dropped_turns :]
            pipeline = TurnPipeline(backend, checks_code=False)
            events = pipeline.run(TurnHistory(turn.system, seen, turn.parts), params, cancel)
            if _cached_tokens(turn) > 0 and not shares_engine:
                # The engine had answered something else that began alike: another prompt after the same history.
                other = TurnHistory(turn.system, seen, "!" if turn.prompt.startswith(".") else ".")
                events = chain(pipeline.run(other, replace(params, max_tokens=1), cancel), events)
            finish_event: TurnFinished | None = None
            for event in events:
                on_progress(event)
                if isinstance(event, ModelReady):
                    loaded_model = event.model
                elif isinstance(event, TurnFinished):
                    finish_event = event
            if cancel.is_set() or finish_event is None or loaded_model is None:
                return
            if turn_number in (None, index + 1):
                yield _compare_turn(index + 1, turn, finish_event, loaded_model, params)


def _cached_tokens(turn: TurnRecord) -> int:
    return turn.usage.cached_tokens if turn.usage else 0


def _shares_engine_with_previous(branch: Sequence[TurnRecord], index: int) -> bool:
    """Return whether the engine had also answered the turn before: then at least that prompt was in its cache."""
    if index == 0 or branch[index].model != branch[index - 1].model:
        return False
    before = branch[index - 1].usage
    return _cached_tokens(branch[index]) >= (before.prompt_tokens if before else 0) > 0


def _compare_turn(
    turn_number: int, turn: TurnRecord, finish_event: TurnFinished, model: ModelInfo, params: SamplingParams
) -> ReplayResult:
    recorded, replayed = turn.reasoning + turn.text, finish_event.reasoning + finish_event.text
    difference = find_first_difference(recorded, replayed)
    assert turn.model is not None
    assert turn.params is not None
    changes = {**_compare_models(turn.model, model), **_compare_settings(turn, finish_event, params)}
    if difference is not None and not changes and _cached_tokens(turn) != finish_event.usage.cached_tokens:
        now_cached = finish_event.usage.cached_tokens
        changes["cache"] = f"{_cached_tokens(turn):,} prompt tokens were in the KV cache, now {now_cached:,}"
    return ReplayResult(turn_number, recorded, replayed, difference, changes)


def find_first_difference(one: str, other: str) -> int | None:
    """Return the index of the first character in which two texts differ; None when they are equal."""
    return next((index for index, (left, right) in enumerate(zip_longest(one, other)) if left != right), None)


def _compare_models(then: ModelInfo, now: ModelInfo) -> dict[str, str]:
    changes: dict[str, str] = {}
    if then.sha256 and now.sha256:
        if then.sha256 != now.sha256:
            changes["model"] = f"sha256 {then.sha256[:12]}, now {now.sha256[:12]}"
    elif then.size != now.size:
        changes["model"] = f"{then.size:,} bytes, now {now.size:,}"
    elif then.modified_ns != now.modified_ns:
        changes["model"] = "the file has been modified since"
    if then.template_sha256 != now.template_sha256:
        changes["template"] = f"sha256 {then.template_sha256[:12]}, now {now.template_sha256[:12]}"
    if then.library != now.library:
        changes["library"] = f"llama-cpp-python {then.library}, now {now.library}"
    names = ("devices", "n_gpu_layers", "threads", "cache_type_k", "cache_type_v")
    if difference := _format_differences(then, now, names):
        changes["hardware"] = difference
    return changes


def _compare_settings(turn: TurnRecord, finish_event: TurnFinished, params: SamplingParams) -> dict[str, str]:
    assert turn.params is not None
    names = [field.name for field in fields(SamplingParams)]
    differences = [_format_differences(replace(turn.params, seed=turn.seed), params, names)]
    if turn.n_ctx and turn.n_ctx != finish_event.n_ctx:
        differences.append(f"n_ctx {turn.n_ctx}, now {finish_event.n_ctx}")
    if finish_event.dropped_turns:
        differences.append(f"{finish_event.dropped_turns} more turns did not fit")
    text = "; ".join(filter(None, differences))
    return {"settings": text} if text else {}


def _format_differences(then: object, now: object, names: Sequence[str]) -> str:
    return "; ".join(
        f"{name} {_format_value(old)}, now {_format_value(new)}"
        for name in names
        if (old := getattr(then, name)) != (new := getattr(now, name))
    )


def _format_value(value: object) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)


def format_result(result: ReplayResult) -> str:
    """Return the result of a replayed turn as text for people; not yet sanitised."""
    changes = "".join(f"\n  {name}: {description}" for name, description in result.changes.items())
    index = result.first_difference
    if index is None:
        return f"Turn {result.turn_number}: identical, {len(result.recorded):,} characters{changes}"
    then, now = (text[index : index + MAX_SHOWN_CHARS] for text in (result.recorded, result.replayed))
    lines = f"\n  then: {then!r}\n  now:  {now!r}"
    unchanged = "" if changes else "\n  none of the recorded settings has changed"
    return f"Turn {result.turn_number}: differs from character {index:,} on{lines}{changes}{unchanged}"
