"""Which of several replies to one prompt most of them agree with: pure, but for the replies being asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from phichat.chat.answers import Answer, By, is_marked, is_short, read, strict_choice
from phichat.engine.backend import Backend, Cancel
from phichat.errors import PhichatError
from phichat.events import AnswerGroup, Event, ReasoningDelta, SampleFinished, TextDelta, TurnFinished, Voted
from phichat.messages import FinishReason, GenerationParams, Message

_SHOWN = 60
"""Characters of an answer that are quoted."""

_LISTED = 4
"""Other answers that are quoted."""


@dataclass(frozen=True, slots=True)
class Poll:
    """How many replies are asked for, and what their answers are compared by."""

    samples: int
    by: By = By.AUTO


def count(texts: Sequence[str], by: By = By.AUTO) -> tuple[By, tuple[AnswerGroup, ...]]:
    """Groups of texts whose answers are the same, and what they were compared by.

    The largest group stands first, of equal ones the one that came first, and last the texts that have no
    answer of that kind.
    """
    by = looks_like(texts) if by is By.AUTO else by
    answers = [read(text, by) for text in texts]
    if by is By.NUMBER:
        answers = _with_percents_as_meant(answers)
    members: dict[str | None, list[int]] = {}
    for number, answer in enumerate(answers):
        members.setdefault(answer.key if answer else None, []).append(number)
    without = members.pop(None, None)
    groups = [AnswerGroup(_shown(answers[numbers[0]]), tuple(numbers)) for numbers in members.values()]
    groups.sort(key=lambda group: -len(group.samples))
    return by, (*groups, *([AnswerGroup(None, tuple(without))] if without else ()))


def _shown(answer: Answer | None) -> str:
    return answer.shown if answer else ""


def _with_percents_as_meant(answers: Sequence[Answer | None]) -> list[Answer | None]:
    """50 % is 50 where another reply says 50, and 0.5 where another says that."""
    keys = {answer.key for answer in answers if answer}

    def meant(answer: Answer | None) -> Answer | None:
        if answer is None or not answer.key.endswith("%"):
            return answer
        plain = answer.key.removesuffix("%")
        hundredth = read(f"{plain}e-2", By.NUMBER)
        return next((other for other in (Answer(plain, plain), hundredth) if other and other.key in keys), answer)

    return [meant(answer) for answer in answers]


def looks_like(texts: Sequence[str]) -> By:
    """What most of the texts look like; of two kinds as frequent, the one that came first."""
    kinds = Counter(_kind(text) for text in texts if text.strip())
    return kinds.most_common(1)[0][0] if kinds else By.LINE


def _kind(text: str) -> By:
    content = _content_of_only_block(text)
    if content[:1] in ("{", "[") and read(content, By.JSON):
        return By.JSON
    if "```" in text or "~~~" in text:
        return By.CODE
    if strict_choice(text):
        return By.CHOICE
    if (is_marked(text) or is_short(text)) and _says_a_number(text):
        return By.NUMBER
    return By.LINE


def _content_of_only_block(text: str) -> str:
    lines = text.strip().splitlines()
    if len(lines) > 2 and lines[0].startswith("```") and lines[-1] == "```":
        lines = lines[1:-1]
    return "\n".join(lines).strip()


def _says_a_number(text: str) -> bool:
    """Whether a number is its answer, and not just in it."""
    line = read(text, By.LINE)
    return line is not None and read(line.shown, By.NUMBER) is not None


def elected(
    backend: Backend, messages: Sequence[Message], params: GenerationParams, poll: Poll, cancel: Cancel
) -> Iterator[Event]:
    """Ask for the replies, compare those that are complete, and end as one reply: the one that stands for most.

    Raises what `Backend.sample` raises, after the TurnFinished.
    """
    asked, notices = poll.samples, tuple[str, ...]()
    if params.temperature <= 0 and asked > 1:
        asked, notices = 1, ("At temperature 0 all samples would be the same: one was taken.",)
    replies: dict[int, TurnFinished] = {}
    failure: PhichatError | None = None
    try:
        for event in backend.sample(messages, params, asked, cancel):
            if isinstance(event, SampleFinished):
                replies[event.number] = event.reply
            yield event
    except PhichatError as why:
        failure = why
    complete = [number for number, reply in sorted(replies.items()) if is_complete(reply)]
    by, groups = count([replies[number].text for number in complete], poll.by)
    groups = tuple(replace(group, samples=tuple(complete[at] for at in group.samples)) for group in groups)
    winner = groups[0].samples[0] if groups else min(replies, default=None)
    end = TurnFinished("", "", FinishReason.CANCELLED) if winner is None else replies[winner]
    if end.reasoning:
        yield ReasoningDelta(end.reasoning)
    if end.text:
        yield TextDelta(end.text)
    if winner is not None:
        yield Voted(by, asked, groups, winner)
    if failure:
        end = replace(end, finish_reason=FinishReason.ERROR)
    elif len(complete) < asked:
        end = replace(end, finish_reason=FinishReason.CANCELLED)
    yield replace(end, notices=(*end.notices, *notices))
    if failure:
        raise failure


def is_complete(reply: TurnFinished) -> bool:
    """Whether a reply has come to its end, or to that of the room it was given."""
    return reply.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)


def outcome(vote: Voted) -> str:
    """How the vote went, in words. The answers in it are not yet sanitised."""
    counted = sum(len(group.samples) for group in vote.groups)
    begin = ""
    if counted < vote.asked:
        begin = f"Only {counted} of {vote.asked} samples {'was' if counted == 1 else 'were'} complete. "
    if not counted:
        return begin + "This is what the first had said until then."
    if counted == 1:
        return f"{begin}There is one sample, and nothing to compare it with."
    if vote.groups[0].answer is None:
        return f"{begin}No agreement: none of {counted} samples has {_KINDS[vote.by]} to compare; this is the first."
    first, *others = vote.groups
    most, tied = len(first.samples), [group for group in others if len(group.samples) == len(first.samples)]
    said = "; ".join(filter(None, (_quoted(first), _listed(others))))
    share = f"{most} of {counted} samples"
    if most == 1:
        return f"{begin}No agreement among {counted} samples: 1 said {said}. This is the first with an answer."
    if any(group.answer is not None for group in tied):
        return f"{begin}A tie: {share} ({_percent(vote)}) said {said}. This is the one that came first."
    return f"{begin}{share} agree ({_percent(vote)}): {said}."


def _percent(vote: Voted) -> str:
    return f"{100 * vote.agreement:.0f} %"


def _listed(groups: Sequence[AnswerGroup]) -> str:
    """What else was said, and how often."""
    shown = [group for group in groups if group.answer is not None]
    words = [f"{len(group.samples)} said {_quoted(group)}" for group in shown[:_LISTED]]
    if rest := sum(len(group.samples) for group in shown[_LISTED:]):
        words.append(f"{rest} said something else")
    if silent := sum(len(group.samples) for group in groups if group.answer is None):
        words.append(f"{silent} gave no answer to compare")
    return ", ".join(words)


_KINDS: Mapping[str, str] = {
    By.NUMBER: "a number",
    By.CHOICE: "a choice",
    By.LINE: "a line",
    By.CODE: "code",
    By.JSON: "JSON",
}


def _quoted(group: AnswerGroup) -> str:
    line = " ".join((group.answer or "").split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1].rstrip() + "…"
