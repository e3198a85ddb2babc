"""Replay: generate recorded replies again, and compare.

A reply depends on more than its prompt and its seed: a turn whose history was in the KV cache was
evaluated in other batches than one that started empty, and sums then differ in their last bits. So turns
are replayed in the state of the engine that their count of cached tokens tells: a fresh engine; the engine
that just answered the turn before; or an engine that answered something else with the same beginning.
The history is always the recorded one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

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

    turn_number: in its branch, from 1. changes: what has changed since (model, template, library,
    hardware, settings, cache), each with a few words on it. first_difference: characters into the reasoning
    and the text that follows it, None when both are identical.
    """

    turn_number: int
    recorded: str
    replayed: str
    first_difference: int | None
    changes: Mapping[str, str]


EventCallback = Callable[[Event], None]


def is_replayable(turn: TurnRecord) -> bool:
    """Return whether the reply is complete, and its model, parameters and seed are known."""
    ended = turn.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
    return ended and None not in (turn.params, turn.seed, turn.model)


def replay_turns(
    branch: Sequence[TurnRecord],
    turn_number: int | None,
    create_backend: Callable[[TurnRecord], Backend],
    override_params: Callable[[SamplingParams], SamplingParams],
    on_progress: EventCallback,
    cancel: CancelToken,
) -> Iterator[ReplayResult]:
    """Replay the turns of a branch that are replayable, or only the one with this number (from 1).

    create_backend: makes the backend that answered a turn. override_params: changes recorded parameters.
    Raises what `TurnPipeline.run` and `create_backend` raise.
    """
    last = len(branch) if turn_number is None else turn_number
    first = 0 if turn_number is None else _engine_start(branch, turn_number - 1)
    current_backend: Backend | None = None
    loaded_model: ModelReady | None = None

    def on_event(event: Event) -> None:
        nonlocal loaded_model
        if isinstance(event, ModelReady):
            loaded_model = event
        on_progress(event)

    try:
        for index in range(first, last):
            turn = branch[index]
            if not is_replayable(turn):
                continue
            if current_backend is None or not _shares_engine_with_previous(branch, index):
                if current_backend is not None:
                    current_backend.close()
                current_backend = create_backend(turn)
            assert turn.params is not None
            params = override_params(replace(turn.params, seed=turn.seed))
            history = _build_history(branch[:index], turn.dropped_turns)
            pipeline = TurnPipeline(current_backend, checks_code=False)
            if _had_warm_cache(branch, index):
                warmup = TurnHistory(turn.system, history, _unrelated_prompt(turn.prompt))
                for event in pipeline.run(warmup, replace(params, max_tokens=1), cancel):
                    on_event(event)
            finish_event: TurnFinished | None = None
            for event in pipeline.run(TurnHistory(turn.system, history, turn.parts), params, cancel):
                on_event(event)
                if isinstance(event, TurnFinished):
                    finish_event = event
            if cancel.is_set() or finish_event is None or loaded_model is None:
                return
            if turn_number in (None, index + 1):
                yield _compare_turn(index + 1, turn, finish_event, loaded_model.model, params)
    finally:
        if current_backend is not None:
            current_backend.close()


def _cached_tokens(turn: TurnRecord) -> int:
    return turn.usage.cached_tokens if turn.usage else 0


def _shares_engine_with_previous(branch: Sequence[TurnRecord], index: int) -> bool:
    """Return whether the engine had also answered the turn before: then at least that prompt was in its cache."""
    if index == 0 or branch[index].model != branch[index - 1].model:
        return False
    before = branch[index - 1].usage
    return _cached_tokens(branch[index]) >= (before.prompt_tokens if before else 0) > 0


def _had_warm_cache(branch: Sequence[TurnRecord], index: int) -> bool:
    """Return whether the engine had answered something else before that began alike."""
    return _cached_tokens(branch[index]) > 0 and not _shares_engine_with_previous(branch, index)


def _unrelated_prompt(prompt: str) -> str:
    """Return a prompt that has no beginning in common with this one."""
    return "!" if prompt.startswith(".") else "."


def _engine_start(branch: Sequence[TurnRecord], index: int) -> int:
    """Return the index of the turn that started the engine that answered this one."""
    while _shares_engine_with_previous(branch, index):
        index -= 1
    return index


def _build_history(earlier_turns: Sequence[TurnRecord], dropped_turns: int) -> Sequence[Turn]:
    """Return the turns that the model saw."""
    return [Turn(turn.parts, turn.text) for turn in earlier_turns if turn.text][dropped_turns:]


def _compare_turn(
    turn_number: int, turn: TurnRecord, finish_event: TurnFinished, model: ModelInfo, params: SamplingParams
) -> ReplayResult:
    recorded, replayed = turn.reasoning + turn.text, finish_event.reasoning + finish_event.text
    difference = find_first_difference(recorded, replayed)
    assert turn.model is not None
    assert turn.params is not None
    changes = {**_compare_models(turn.model, model), **_compare_settings(turn, finish_event, params)}
    if difference is not None and not changes and _cached_tokens(turn) != finish_event.usage.cached_tokens:
        changes["cache"] = (
            f"{_cached_tokens(turn):,} prompt tokens were in the KV cache, now {finish_event.usage.cached_tokens:,}"
        )
    return ReplayResult(turn_number, recorded, replayed, difference, changes)


def find_first_difference(one: str, other: str) -> int | None:
    """Return the index of the first character in which two texts differ; None when they are equal."""
    if one == other:
        return None
    shorter = min(len(one), len(other))
    return next((index for index in range(shorter) if one[index] != other[index]), shorter)


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
    if difference := _format_differences(
        then, now, ("devices", "n_gpu_layers", "threads", "cache_type_k", "cache_type_v")
    ):
        changes["hardware"] = difference
    return changes


def _compare_settings(turn: TurnRecord, finish_event: TurnFinished, params: SamplingParams) -> dict[str, str]:
    assert turn.params is not None
    differences = [
        _format_differences(replace(turn.params, seed=turn.seed), params, tuple(SamplingParams.__dataclass_fields__))
    ]
    if turn.n_ctx and turn.n_ctx != finish_event.n_ctx:
        differences.append(f"n_ctx {turn.n_ctx}, now {finish_event.n_ctx}")
    if finish_event.dropped_turns:
        differences.append(f"{finish_event.dropped_turns} more turns did not fit")
    text = "; ".join(filter(None, differences))
    return {"settings": text} if text else {}


def _format_differences(then: object, now: object, names: Sequence[str]) -> str:
    return "; ".join(
        f"{name} {_format_value(getattr(then, name))}, now {_format_value(getattr(now, name))}"
        for name in names
        if getattr(then, name) != getattr(now, name)
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
