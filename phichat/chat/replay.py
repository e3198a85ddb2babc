"""Replies run again, to see whether the same comes out.

A reply depends on more than its prompt and its seed: a turn that found its past in the KV cache was
evaluated in other batches than one that started empty, and sums then differ in their last bits. So turns
are run again the way they were run then, as far as their count of cached tokens tells: in a fresh engine;
in the one that has just answered the turn before; or in one that had answered something else with the same
beginning. The history is always the recorded one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from phichat.chat.context import Turn
from phichat.chat.session import Session
from phichat.engine.backend import Backend, Cancel
from phichat.events import Event, ModelReady, TurnFinished
from phichat.messages import FinishReason, GenerationParams, ModelInfo
from phichat.transcript.records import TurnRecord

SHOWN_CHARACTERS = 40
"""Of both replies, from a difference on."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """A turn that was run again.

    number: of the turn in its branch, from 1. changed: what is not as it was (model, template, library,
    hardware, settings, cache) with a few words on each. first_difference: characters into the reasoning
    and the text that follows it, None when they are identical.
    """

    number: int
    recorded: str
    replayed: str
    first_difference: int | None
    changed: Mapping[str, str]


Progress = Callable[[Event], None]


def can_be_replayed(turn: TurnRecord) -> bool:
    """Whether the reply ended and how it was made is known."""
    ended = turn.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
    return ended and None not in (turn.params, turn.seed, turn.model)


def replay(
    branch: Sequence[TurnRecord],
    number: int | None,
    backend: Callable[[TurnRecord], Backend],
    override: Callable[[GenerationParams], GenerationParams],
    progress: Progress,
    cancel: Cancel,
) -> Iterator[Replayed]:
    """Run the turns of a branch again that can be, or only the one with this number (from 1).

    backend: loads what answered a turn. override: parameters that are to be others than the recorded.
    Raises what `Session.send` and `backend` raise.
    """
    last = len(branch) if number is None else number
    first = 0 if number is None else _begins(branch, number - 1)
    engine: Backend | None = None
    ready: ModelReady | None = None

    def saw(event: Event) -> None:
        nonlocal ready
        if isinstance(event, ModelReady):
            ready = event
        progress(event)

    try:
        for at in range(first, last):
            turn = branch[at]
            if not can_be_replayed(turn):
                continue
            if engine is None or not _continues(branch, at):
                if engine is not None:
                    engine.close()
                engine = backend(turn)
            assert turn.params is not None
            params = override(replace(turn.params, seed=turn.seed))
            history = _history(branch[:at], turn.dropped_turns)
            if _was_primed(branch, at):
                other = Session(engine, turn.system, history)
                for event in other.send(_other_than(turn.prompt), replace(params, max_tokens=1), cancel):
                    saw(event)
            finished: TurnFinished | None = None
            for event in Session(engine, turn.system, history).send(turn.prompt, params, cancel):
                saw(event)
                if isinstance(event, TurnFinished):
                    finished = event
            if cancel.is_set() or finished is None or ready is None:
                return
            if number in (None, at + 1):
                yield _compared(at + 1, turn, finished, ready.model, params)
    finally:
        if engine is not None:
            engine.close()


def _cached(turn: TurnRecord) -> int:
    return turn.usage.cached_tokens if turn.usage else 0


def _continues(branch: Sequence[TurnRecord], at: int) -> bool:
    """Whether the turn was answered by the engine that had answered the one before it: that one's prompt,
    if nothing else, was in its cache."""
    if at == 0 or branch[at].model != branch[at - 1].model:
        return False
    before = branch[at - 1].usage
    return _cached(branch[at]) >= (before.prompt_tokens if before else 0) > 0


def _was_primed(branch: Sequence[TurnRecord], at: int) -> bool:
    """Whether the engine had answered something else before, which began alike."""
    return _cached(branch[at]) > 0 and not _continues(branch, at)


def _other_than(prompt: str) -> str:
    """A prompt that has nothing in common with this one."""
    return "!" if prompt.startswith(".") else "."


def _begins(branch: Sequence[TurnRecord], at: int) -> int:
    """The turn that started the engine that answered this one."""
    while _continues(branch, at):
        at -= 1
    return at


def _history(before: Sequence[TurnRecord], dropped: int) -> Sequence[Turn]:
    """What the model saw."""
    return [Turn(turn.prompt, turn.text) for turn in before if turn.text][dropped:]


def _compared(
    number: int, turn: TurnRecord, finished: TurnFinished, model: ModelInfo, params: GenerationParams
) -> Replayed:
    recorded, replayed = turn.reasoning + turn.text, finished.reasoning + finished.text
    difference = first_difference(recorded, replayed)
    assert turn.model is not None
    assert turn.params is not None
    changed = {**_model_changes(turn.model, model), **_setting_changes(turn, finished, params)}
    if difference is not None and not changed and _cached(turn) != finished.usage.cached_tokens:
        changed["cache"] = (
            f"{_cached(turn):,} prompt tokens came out of the KV cache, {finished.usage.cached_tokens:,} now"
        )
    return Replayed(number, recorded, replayed, difference, changed)


def first_difference(one: str, other: str) -> int | None:
    """Where two texts begin to differ, in characters; None when they do not."""
    if one == other:
        return None
    shorter = min(len(one), len(other))
    return next((at for at in range(shorter) if one[at] != other[at]), shorter)


def _model_changes(then: ModelInfo, now: ModelInfo) -> dict[str, str]:
    changed: dict[str, str] = {}
    if then.sha256 and now.sha256:
        if then.sha256 != now.sha256:
            changed["model"] = f"sha256 {then.sha256[:12]}, now {now.sha256[:12]}"
    elif then.size != now.size:
        changed["model"] = f"{then.size:,} bytes, now {now.size:,}"
    elif then.modified_ns != now.modified_ns:
        changed["model"] = "the file was written since"
    if then.template_sha256 != now.template_sha256:
        changed["template"] = f"sha256 {then.template_sha256[:12]}, now {now.template_sha256[:12]}"
    if then.library != now.library:
        changed["library"] = f"llama-cpp-python {then.library}, now {now.library}"
    if said := _differing(then, now, ("devices", "n_gpu_layers", "threads", "cache_type_k", "cache_type_v")):
        changed["hardware"] = said
    return changed


def _setting_changes(turn: TurnRecord, finished: TurnFinished, params: GenerationParams) -> dict[str, str]:
    assert turn.params is not None
    said = [_differing(replace(turn.params, seed=turn.seed), params, tuple(GenerationParams.__dataclass_fields__))]
    if turn.n_ctx and turn.n_ctx != finished.n_ctx:
        said.append(f"n_ctx {turn.n_ctx}, now {finished.n_ctx}")
    if finished.dropped_turns:
        said.append(f"{finished.dropped_turns} more turns did not fit")
    text = "; ".join(filter(None, said))
    return {"settings": text} if text else {}


def _differing(then: object, now: object, names: Sequence[str]) -> str:
    return "; ".join(
        f"{name} {_said(getattr(then, name))}, now {_said(getattr(now, name))}"
        for name in names
        if getattr(then, name) != getattr(now, name)
    )


def _said(value: object) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)


def sentence(replayed: Replayed) -> str:
    """What came of a turn, for people."""
    changed = "".join(f"\n  {name}: {what}" for name, what in replayed.changed.items())
    at = replayed.first_difference
    if at is None:
        return f"Turn {replayed.number}: identical, {len(replayed.recorded):,} characters{changed}"
    then, now = (text[at : at + SHOWN_CHARACTERS] for text in (replayed.recorded, replayed.replayed))
    lines = f"\n  then: {then!r}\n  now:  {now!r}"
    unchanged = "" if changed else "\n  nothing that is recorded has changed"
    return f"Turn {replayed.number}: differs from character {at:,} on{lines}{changed}{unchanged}"
