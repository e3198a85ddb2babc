"""Which of several replies to one prompt most of them agree with: pure, but for the replies being asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from phichat.chat.vote.answer_extraction import (
    Answer,
    AnswerKind,
    extract_answer,
    extract_strict_choice,
    has_explicit_answer,
    has_short_answer,
)
from phichat.engine.backend import Backend, CancelToken
from phichat.errors import PhichatError
from phichat.events import AnswerGroup, Event, ReasoningDelta, SampleFinished, TextDelta, TurnFinished, VoteResult
from phichat.types import FinishReason, Message, SamplingParams

_MAX_ANSWER_CHARS = 60
"""Characters of an answer that are quoted."""

_MAX_LISTED = 4
"""Other answers that are quoted."""


@dataclass(frozen=True, slots=True)
class VoteConfig:
    """How many replies are asked for, and what their answers are compared by."""

    samples: int
    answer_kind: AnswerKind = AnswerKind.AUTO


def group_answers(
    texts: Sequence[str], kind: AnswerKind = AnswerKind.AUTO
) -> tuple[AnswerKind, tuple[AnswerGroup, ...]]:
    """Groups of texts whose answers are the same, and what they were compared by.

    The largest group stands first, of equal ones the one that came first, and last the texts that have no
    answer of that kind.
    """
    kind = detect_answer_kind(texts) if kind is AnswerKind.AUTO else kind
    answers = [extract_answer(text, kind) for text in texts]
    if kind is AnswerKind.NUMBER:
        answers = _normalize_percentages(answers)
    members: dict[str | None, list[int]] = {}
    for number, answer in enumerate(answers):
        members.setdefault(answer.key if answer else None, []).append(number)
    unanswered = members.pop(None, None)
    groups = [AnswerGroup(_display_text(answers[numbers[0]]), tuple(numbers)) for numbers in members.values()]
    groups.sort(key=lambda group: -len(group.samples))
    return kind, (*groups, *([AnswerGroup(None, tuple(unanswered))] if unanswered else ()))


def _display_text(answer: Answer | None) -> str:
    return answer.display if answer else ""


def _normalize_percentages(answers: Sequence[Answer | None]) -> list[Answer | None]:
    """50 % is 50 where another reply says 50, and 0.5 where another says that."""
    keys = {answer.key for answer in answers if answer}

    def normalize_percentage(answer: Answer | None) -> Answer | None:
        if answer is None or not answer.key.endswith("%"):
            return answer
        plain = answer.key.removesuffix("%")
        hundredth = extract_answer(f"{plain}e-2", AnswerKind.NUMBER)
        return next((other for other in (Answer(plain, plain), hundredth) if other and other.key in keys), answer)

    return [normalize_percentage(answer) for answer in answers]


def detect_answer_kind(texts: Sequence[str]) -> AnswerKind:
    """What most of the texts look like; of two kinds as frequent, the one that came first."""
    kinds = Counter(_detect_kind(text) for text in texts if text.strip())
    return kinds.most_common(1)[0][0] if kinds else AnswerKind.LINE


def _detect_kind(text: str) -> AnswerKind:
    content = _strip_fence(text)
    if content[:1] in ("{", "[") and extract_answer(content, AnswerKind.JSON):
        return AnswerKind.JSON
    if "```" in text or "~~~" in text:
        return AnswerKind.CODE
    if extract_strict_choice(text):
        return AnswerKind.CHOICE
    if (has_explicit_answer(text) or has_short_answer(text)) and _is_numeric_answer(text):
        return AnswerKind.NUMBER
    return AnswerKind.LINE


def _strip_fence(text: str) -> str:
    lines = text.strip().splitlines()
    if len(lines) > 2 and lines[0].startswith("```") and lines[-1] == "```":
        lines = lines[1:-1]
    return "\n".join(lines).strip()


def _is_numeric_answer(text: str) -> bool:
    """Whether a number is its answer, and not just in it."""
    line = extract_answer(text, AnswerKind.LINE)
    return line is not None and extract_answer(line.display, AnswerKind.NUMBER) is not None


def run_vote(
    backend: Backend, messages: Sequence[Message], params: SamplingParams, config: VoteConfig, cancel: CancelToken
) -> Iterator[Event]:
    """Ask for the replies, compare those that are complete, and end as one reply: the one that stands for most.

    Raises what `Backend.sample` raises, after the TurnFinished.
    """
    requested, notices = config.samples, tuple[str, ...]()
    if params.temperature <= 0 and requested > 1:
        requested, notices = 1, ("At temperature 0 all samples would be the same: one was taken.",)
    replies: dict[int, TurnFinished] = {}
    failure: PhichatError | None = None
    try:
        for event in backend.generate_n(messages, params, requested, cancel):
            if isinstance(event, SampleFinished):
                replies[event.index] = event.reply
            yield event
    except PhichatError as error:
        failure = error
    complete_indices = [number for number, reply in sorted(replies.items()) if is_complete(reply)]
    kind, groups = group_answers([replies[number].text for number in complete_indices], config.answer_kind)
    groups = tuple(replace(group, samples=tuple(complete_indices[at] for at in group.samples)) for group in groups)
    winner = groups[0].samples[0] if groups else min(replies, default=None)
    final = TurnFinished("", "", FinishReason.CANCELLED) if winner is None else replies[winner]
    if final.reasoning:
        yield ReasoningDelta(final.reasoning)
    if final.text:
        yield TextDelta(final.text)
    if winner is not None:
        yield VoteResult(kind, requested, groups, winner)
    if failure:
        final = replace(final, finish_reason=FinishReason.ERROR)
    elif len(complete_indices) < requested:
        final = replace(final, finish_reason=FinishReason.CANCELLED)
    yield replace(final, notices=(*final.notices, *notices))
    if failure:
        raise failure


def is_complete(reply: TurnFinished) -> bool:
    """Whether a reply has come to its end, or to that of the room it was given."""
    return reply.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)


def format_result(result: VoteResult) -> str:
    """How the vote went, in words. The answers in it are not yet sanitised."""
    complete_count = sum(len(group.samples) for group in result.groups)
    prefix = ""
    if complete_count < result.requested:
        prefix = (
            f"Only {complete_count} of {result.requested} samples {'was' if complete_count == 1 else 'were'} complete. "
        )
    if not complete_count:
        return prefix + "This is what the first had said until then."
    if complete_count == 1:
        return f"{prefix}There is one sample, and nothing to compare it with."
    if result.groups[0].answer is None:
        return f"{prefix}No agreement: none of {complete_count} samples has {_KIND_NOUNS[result.answer_kind]} to compare; this is the first."
    first, *others = result.groups
    winner_count, tied = len(first.samples), [group for group in others if len(group.samples) == len(first.samples)]
    answers = "; ".join(filter(None, (_shorten_answer(first), _format_groups(others))))
    share = f"{winner_count} of {complete_count} samples"
    if winner_count == 1:
        return (
            f"{prefix}No agreement among {complete_count} samples: 1 said {answers}. This is the first with an answer."
        )
    if any(group.answer is not None for group in tied):
        return f"{prefix}A tie: {share} ({_format_agreement(result)}) said {answers}. This is the one that came first."
    return f"{prefix}{share} agree ({_format_agreement(result)}): {answers}."


def _format_agreement(result: VoteResult) -> str:
    return f"{100 * result.agreement:.0f} %"


def _format_groups(groups: Sequence[AnswerGroup]) -> str:
    """What else was said, and how often."""
    answered = [group for group in groups if group.answer is not None]
    parts = [f"{len(group.samples)} said {_shorten_answer(group)}" for group in answered[:_MAX_LISTED]]
    if other_count := sum(len(group.samples) for group in answered[_MAX_LISTED:]):
        parts.append(f"{other_count} said something else")
    if unanswered_count := sum(len(group.samples) for group in groups if group.answer is None):
        parts.append(f"{unanswered_count} gave no answer to compare")
    return ", ".join(parts)


_KIND_NOUNS: Mapping[str, str] = {
    AnswerKind.NUMBER: "a number",
    AnswerKind.CHOICE: "a choice",
    AnswerKind.LINE: "a line",
    AnswerKind.CODE: "code",
    AnswerKind.JSON: "JSON",
}


def _shorten_answer(group: AnswerGroup) -> str:
    line = " ".join((group.answer or "").split())
    return line if len(line) <= _MAX_ANSWER_CHARS else line[: _MAX_ANSWER_CHARS - 1].rstrip() + "…"
