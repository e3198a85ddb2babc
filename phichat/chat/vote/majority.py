"""The majority vote: compares the answers of several replies to one prompt."""

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

_MAX_ANSWER_CHARS = 60  # longer answers are quoted in part
_MAX_LISTED = 4  # other answers that are quoted


@dataclass(frozen=True, slots=True)
class VoteConfig:
    """The number of samples, and how their answers are compared."""

    samples: int
    answer_kind: AnswerKind = AnswerKind.AUTO


def group_answers(
    texts: Sequence[str], kind: AnswerKind = AnswerKind.AUTO
) -> tuple[AnswerKind, tuple[AnswerGroup, ...]]:
    """Return how the answers were compared, and groups of the texts with the same answer.

    The largest group comes first, of equal ones the earliest, and last the texts without an answer of that kind.
    """
    kind = detect_answer_kind(texts) if kind is AnswerKind.AUTO else kind
    answers = [extract_answer(text, kind) for text in texts]
    if kind is AnswerKind.NUMBER:
        answers = _normalize_percentages(answers)
    members: dict[str, list[int]] = {}
    for number, answer in enumerate(answers):
        if answer:
            members.setdefault(answer.key, []).append(number)
    displays = {answer.key: answer.display for answer in reversed(answers) if answer}
    groups = [AnswerGroup(displays[key], tuple(numbers)) for key, numbers in members.items()]
    groups.sort(key=lambda group: -len(group.samples))
    if unanswered := tuple(number for number, answer in enumerate(answers) if answer is None):
        groups.append(AnswerGroup(None, unanswered))
    return kind, tuple(groups)


def _normalize_percentages(answers: Sequence[Answer | None]) -> list[Answer | None]:
    """Read 50 % as 50 where another reply says 50, and as 0.5 where another says that."""
    keys = {answer.key for answer in answers if answer}

    def normalize_percentage(answer: Answer | None) -> Answer | None:
        if answer is None or not answer.key.endswith("%"):
            return answer
        plain = answer.key.removesuffix("%")
        hundredth = extract_answer(f"{plain}e-2", AnswerKind.NUMBER)
        return next((other for other in (Answer(plain, plain), hundredth) if other and other.key in keys), answer)

    return [normalize_percentage(answer) for answer in answers]


def detect_answer_kind(texts: Sequence[str]) -> AnswerKind:
    """Return the kind of most of the texts; of two equally frequent, the first."""
    kinds = Counter(_detect_kind(text) for text in texts if text.strip())
    return max(kinds, key=lambda kind: kinds[kind], default=AnswerKind.LINE)


def _detect_kind(text: str) -> AnswerKind:
    lines = text.strip().splitlines()
    is_fenced = len(lines) > 2 and lines[0].startswith("```") and lines[-1] == "```"
    content = "\n".join(lines[1:-1] if is_fenced else lines).strip()
    if content[:1] in ("{", "[") and extract_answer(content, AnswerKind.JSON):
        return AnswerKind.JSON
    if "```" in text or "~~~" in text:
        return AnswerKind.CODE
    if extract_strict_choice(text):
        return AnswerKind.CHOICE
    line = extract_answer(text, AnswerKind.LINE) if has_explicit_answer(text) or has_short_answer(text) else None
    # The answer must be a number, and not just contain one.
    is_number = line is not None and extract_answer(line.display, AnswerKind.NUMBER) is not None
    return AnswerKind.NUMBER if is_number else AnswerKind.LINE


def run_vote(
    backend: Backend, messages: Sequence[Message], params: SamplingParams, config: VoteConfig, cancel: CancelToken
) -> Iterator[Event]:
    """Generate the samples, compare the complete ones, and end with the first reply of the largest group.

    Raises what `Backend.generate_n` raises, after the TurnFinished.
    """
    requested, notices = config.samples, tuple[str, ...]()
    if params.temperature <= 0 and requested > 1:
        requested, notices = 1, ("At temperature 0 all samples would be the same, so only one was taken.",)
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
    """Return whether a reply ended by itself or at its token limit."""
    return reply.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)


def format_result(result: VoteResult) -> str:
    """Return the result of the vote in words; not yet sanitised."""
    complete_count = sum(len(group.samples) for group in result.groups)
    prefix = ""
    if complete_count < result.requested:
        verb = "was" if complete_count == 1 else "were"
        prefix = f"Only {complete_count} of {result.requested} samples {verb} complete. "
    if not complete_count:
        return prefix + "This is the first one's partial answer."
    if complete_count == 1:
        return f"{prefix}There is one sample, so there is nothing to compare."
    if result.groups[0].answer is None:
        noun = {"code": "code", "json": "JSON"}.get(result.answer_kind, f"a {result.answer_kind}")
        return f"{prefix}No agreement: none of {complete_count} samples has {noun} to compare. This is the first."
    first, *others = result.groups
    count = len(first.samples)
    answers = "; ".join(filter(None, (_shorten_answer(first), _format_groups(others))))
    if count == 1:
        return (
            f"{prefix}No agreement among {complete_count} samples: 1 said {answers}. This is the first with an answer."
        )
    share, percentage = f"{count} of {complete_count} samples", f"{100 * result.agreement:.0f} %"
    if any(len(group.samples) == count and group.answer is not None for group in others):
        return f"{prefix}A tie: {share} ({percentage}) said {answers}. This is the one that came first."
    return f"{prefix}{share} agree ({percentage}): {answers}."


def to_document(result: VoteResult, replies: Mapping[int, TurnFinished]) -> dict[str, object]:
    """Return the result as `--json` prints it; samples are numbered in the order of their indices."""
    indices = sorted(replies)
    answers = {index: group.answer for group in result.groups for index in group.samples}
    return {
        "by": result.answer_kind,
        "asked": result.requested,
        "samples": [
            {
                "text": replies[index].text,
                "reasoning": replies[index].reasoning,
                "finish_reason": replies[index].finish_reason,
                "seed": replies[index].seed,
                "tokens": replies[index].usage.completion_tokens,
                "answer": answers.get(index),
            }
            for index in indices
        ],
        "groups": [
            {
                "answer": group.answer,
                "count": len(group.samples),
                "samples": [indices.index(at) for at in group.samples],
            }
            for group in result.groups
        ],
        "agreement": result.agreement,
        "winner": indices.index(result.winner),
        "outcome": format_result(result),
    }


def _format_groups(groups: Sequence[AnswerGroup]) -> str:
    """Return the other answers, and how many samples gave each."""
    answered = [group for group in groups if group.answer is not None]
    parts = [f"{len(group.samples)} said {_shorten_answer(group)}" for group in answered[:_MAX_LISTED]]
    if other_count := sum(len(group.samples) for group in answered[_MAX_LISTED:]):
        parts.append(f"{other_count} said something else")
    if unanswered_count := sum(len(group.samples) for group in groups if group.answer is None):
        parts.append(f"{unanswered_count} had nothing to compare")
    return ", ".join(parts)


def _shorten_answer(group: AnswerGroup) -> str:
    line = " ".join((group.answer or "").split())
    return line if len(line) <= _MAX_ANSWER_CHARS else line[: _MAX_ANSWER_CHARS - 1].rstrip() + "…"
