"""The answer that a reply comes to, in a form that can be compared: pure.

Each kind of answer has a reader: a text to an `Answer`, or None where the text has none of that kind. Whatever a
model writes is read in time linear in its length, and raises nothing.
"""

from __future__ import annotations

import ast
import json
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Any

_LONGEST = 20_000
"""Characters from the end of a reply that are looked through for a number or a choice."""


class By(StrEnum):
    """What answers are compared by."""

    AUTO = "auto"
    """By what they look like."""
    NUMBER = "number"
    CHOICE = "choice"
    LINE = "line"
    CODE = "code"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Answer:
    """key: the same for answers that mean the same. shown: for people and for `--json`."""

    key: str
    shown: str


def read(text: str, by: By) -> Answer | None:
    """The answer of that kind; by is not AUTO."""
    return _READERS[by](text)


# Numbers

_UNSIGNED = (
    # Groups of thousands, with the decimal mark that is not the group's.
    r"\d{1,3}(?:,\d{2,3})*,\d{3}(?:\.\d+)?(?![\d,]\d)"
    r"|\d{1,3}(?:\.\d{3}){2,}(?:,\d+)?(?![\d.]\d)"
    r"|\d{1,3}\.\d{3},\d+(?![\d,]\d)"
    r"|\d{1,3}(?:(?P<mark>['’_\u00a0\u2009\u202f])\d{3})(?:(?P=mark)\d{3})*(?:[.,]\d+)?"
    r"|\d+\.\d+|\d+,\d+(?![,.]?\d)|\d+|\.\d+"
)
_NUMBER = re.compile(
    r"(?<![\w.,])(?P<sign>(?<![\d)\]])[-−–+]|\bminus\s)?(?:[$€£¥]\s?)?"
    r"(?:\\?d?frac\{(?P<top>-?\d{1,30})\}\{(?P<bottom>\d{1,30})\}"
    r"|(?:(?P<whole>\d{1,30})[ \u00a0])?(?P<over>\d{1,30})\s?[/⁄]\s?(?P<under>\d{1,30})(?![\d/⁄])"
    r"|(?P<before>\d{1,30})?(?P<vulgar>[¼½¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])"
    r"|(?P<ten>10)\s?(?:\^|\*\*)\s?\{?(?P<power>[-−]?\d+)\}?"
    rf"|(?P<plain>{_UNSIGNED})"
    r"(?:[eE](?P<exponent>[-+−]?\d+)(?!\w)"
    r"|\s?(?:[x×·*]|\\times|\\cdot)\s?10\s?(?:\^|\*\*)\s?\{?(?P<times_ten>[-−]?\d+)\}?)?)"
    r"(?:\s(?P<scale>thousand|million|billion|trillion)\b)?"
    r"(?P<percent>\s?(?:\\?%|percent\b|per cent\b|Prozent\b))?",
    re.IGNORECASE,
)
_SCALES = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_MOST_DIGITS = 400

_MARK = (
    r"(?:(?:final |correct |right |best |my )?(?:answer|result|solution|antwort|ergebnis|lösung)"
    r"(?:\s+(?:choice|option))?\s*(?:(?:is|are|ist|lautet|would be)\b|[:=：])(?:\s*[:=])?|####)\s*"
)
_MARKED = re.compile(_MARK + r"(?P<rest>[^\n]{1,200})", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")
_EQUALS = re.compile(r"(?:=|≈|\bequals\b)\s*")
_WORKED_OUT = re.compile(r"[^\w\n]{0,5}[\d(][\d\s.,()+\-−–*/×·÷^]{0,100}[=≈]\s*")
_DATE_OR_TIME = re.compile(r"\b\d{1,4}([-/.])\d{1,2}\1\d{1,4}\b(?!\.\d)|\b\d{1,2}:\d\d(?::\d\d)?\b")
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_WORD_ALONE = re.compile(rf"\W*({'|'.join(_WORDS)})\b\W*", re.IGNORECASE)


def _number(text: str) -> Answer | None:
    text = _DATE_OR_TIME.sub(" ", _without_emphasis(text[-_LONGEST:]))
    for part in _marked(text):
        if found := _first_number(part):
            return found
    if alone := _WORD_ALONE.fullmatch(text):
        return _worded_number(alone)
    for sentence in reversed(_SENTENCE_END.split(text)):
        numbers = _numbers(sentence)
        for mark in reversed([*_EQUALS.finditer(sentence)]):
            if behind := next((value for at, value in numbers if mark.end() <= at <= mark.end() + 2), None):
                return behind
        if numbers:
            return numbers[-1][1]
    return None


def _first_number(text: str) -> Answer | None:
    """The first one, or what comes out where it is worked out."""
    numbers = _numbers(text[worked.end() :] if (worked := _WORKED_OUT.match(text)) else text)
    if numbers:
        return numbers[0][1]
    return _worded_number(alone) if (alone := _WORD_ALONE.match(text)) else None


def _numbers(text: str) -> list[tuple[int, Answer]]:
    """Each with its place."""
    return [(found.start(), value) for found in _NUMBER.finditer(text) if (value := _value(found))]


def _worded_number(found: re.Match[str]) -> Answer:
    value = str(_WORDS.index(found[1].lower()))
    return Answer(value, value)


def _value(found: re.Match[str]) -> Answer | None:
    value = _magnitude(found)
    if value is None:
        return None
    if found["scale"]:
        value *= 10 ** _SCALES[found["scale"].lower()]
    if found["sign"] not in (None, "+"):
        value = -value
    shown = _decimal(value) + ("%" if found["percent"] else "")
    return Answer(shown, shown)


def _magnitude(found: re.Match[str]) -> Fraction | None:
    """The number without its sign and what follows it; None for one that is none, or beyond all measure."""
    if found["top"]:
        return _ratio(found["top"], found["bottom"])
    if found["over"]:
        part = _ratio(found["over"], found["under"])
        return part if part is None else part + int(found["whole"] or 0)
    if found["vulgar"]:
        top, _, bottom = unicodedata.normalize("NFKC", found["vulgar"]).partition("⁄")
        return Fraction(int(top), int(bottom)) + int(found["before"] or 0)
    if found["ten"]:
        digits, exponent = "1", found["power"]
    else:
        digits, exponent = _without_groups(found["plain"]), found["exponent"] or found["times_ten"] or "0"
    if len(digits) > _MOST_DIGITS or len(exponent) > _MOST_DIGITS:
        return None
    power = int(exponent.replace("−", "-"))
    if abs(power) > _MOST_DIGITS:
        return None
    return Fraction(digits) * Fraction(10) ** power


def _ratio(top: str, bottom: str) -> Fraction | None:
    return Fraction(int(top), int(bottom)) if int(bottom) else None


def _without_groups(number: str) -> str:
    """With a decimal point and nothing else between its digits.

    One comma before three digits parts thousands, unless nothing but a zero stands before it.
    """
    number = re.sub(r"['’_\u00a0\u2009\u202f]", "", number)
    commas, points = number.count(","), number.count(".")
    if commas and points:
        group, decimal = (",", ".") if number.rindex(".") > number.rindex(",") else (".", ",")
        return number.replace(group, "").replace(decimal, ".")
    if points > 1:
        return number.replace(".", "")
    if commas == 1 and (number.startswith("0,") or len(number) - number.index(",") != 4):
        return number.replace(",", ".")
    return number.replace(",", "")


def _decimal(value: Fraction) -> str:
    """A whole number, a decimal that ends, or a fraction."""
    if value.denominator == 1:
        return str(value.numerator)
    rest, twos, fives = value.denominator, 0, 0
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    places = max(twos, fives)
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


# Choices

_LETTER = re.compile(r"[\s(\[{]*(?:\\text\{)?[(\[]?(?P<letter>[A-Ja-j])(?![\w'’+#])[)\]}.:]*")
_WORD = re.compile(r"\W*(?P<word>yes|no|true|false|ja|nein|wahr|falsch)\b", re.IGNORECASE)
_OPTION = re.compile(r"\b(?:option|choice|answer)\s+\(?(?P<letter>[A-J])\b\)?(?!['’+#])", re.IGNORECASE)
_BRACKETED = re.compile(r"(?<!\w)\((?P<letter>[A-Ja-j])\)(?!\w)")
_LETTERED_LINE = re.compile(r"^\W{0,3}(?P<letter>[A-J]|[a-j](?=\)))(?:\s*$|[).:]+(?:\s|$))")
_DENIED = re.compile(r"\b(?:not|isn['’]t|nicht)\s+(?:true|correct|wahr)\b", re.IGNORECASE)
_ANYWHERE = re.compile(r"\b(?:yes|no|true|false)\b", re.IGNORECASE)
_AFFIRMATIVE = ("yes", "true", "ja", "wahr")


def _choice(text: str) -> Answer | None:
    return strict_choice(text) or _loose_choice(text)


def strict_choice(text: str) -> Answer | None:
    """A choice where the text is plainly one."""
    text = _without_emphasis(text[-_LONGEST:])
    for part in _marked(text):
        if (letter := _LETTER.match(part)) and not (letter["letter"] in "aI" and part[letter.end() :].strip()):
            return _lettered(letter)
        if option := _OPTION.match(part.lstrip(" (")):
            return _lettered(option)
        if word := _WORD.match(part):
            return _worded(word["word"])
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    for line in (lines[-1], lines[0]):
        if lettered := _LETTERED_LINE.match(line):
            # Options that are only listed are no choice.
            if sum(bool(_LETTERED_LINE.match(other)) for other in lines) == 1:
                return _lettered(lettered)
        elif option := next(_OPTION.finditer(line), None):
            return _lettered(option)
    first = _WORD.match(text)
    return _worded(first["word"]) if first else None


def _loose_choice(text: str) -> Answer | None:
    text = _without_emphasis(text[-_LONGEST:])
    if letters := [*_OPTION.finditer(text)] or [*_BRACKETED.finditer(text)]:
        return _lettered(letters[-1])
    if _DENIED.search(text):
        return Answer("no", "false")
    words = _ANYWHERE.findall(text)
    return _worded(words[-1]) if words else None


def _lettered(found: re.Match[str]) -> Answer:
    letter = found["letter"].upper()
    return Answer(letter, letter)


def _worded(word: str) -> Answer:
    word = word.lower()
    return Answer("yes" if word in _AFFIRMATIVE else "no", word)


# Lines

_LONG_LINE = 80
_MARKDOWN = re.compile(
    r"^\s*(?:(?:[-*+>]|#{1,6}|\d{1,3}[.)])\s+)+|[*_`~]+(?=\S)|(?<=\S)[*_`~]+|!?\[([^\]\n]{0,200})\]\([^)\n]{0,400}\)"
)
_PUNCTUATION = re.compile(r"(?<!\w)[^\w\s+\-−$€£%]+|[^\w\s+\-−$€£%#]+(?!\w)")


def _line(text: str) -> Answer | None:
    for part in _marked(_without_emphasis(text[-_LONGEST:])):
        if answer := _of_line(part):
            return answer
    answers = [answer for line in text.splitlines() if (answer := _of_line(line))]
    if not answers:
        return None
    # An answer may stand above its reasons, or below them.
    return answers[0 if len(answers[-1].shown) > _LONG_LINE >= len(answers[0].shown) else -1]


def _of_line(line: str) -> Answer | None:
    shown = _MARKDOWN.sub(lambda found: found[1] or "", unicodedata.normalize("NFKC", line))
    key = " ".join(_PUNCTUATION.sub(" ", shown).casefold().split())
    return Answer(key, " ".join(shown.split()).rstrip(" .,:;!")) if key else None


def is_short(text: str) -> bool:
    """Whether a text is a line or has one that could be all of its answer."""
    answer = _line(text)
    return answer is not None and len(answer.shown) <= _LONG_LINE


# Code

_LONGEST_CODE = 200_000


def _code(text: str) -> Answer | None:
    from phichat.codecheck.blocks import read_answer

    blocks, _ = read_answer(text)
    block = next((block for block in blocks if block.language is not None and block.code.strip()), None)
    if block is None:
        return None
    code = block.code.strip("\n")
    tree = _tree(code) if block.language in ("python", "") else None
    return Answer(tree or " ".join(code.split()), code)


def _tree(code: str) -> str | None:
    """What a Python program does, whatever its comments, docstrings and layout; None for what is none."""
    if len(code) > _LONGEST_CODE:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            parsed = ast.parse(code)
        for node in ast.walk(parsed):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                _drop_docstring(node)
        return ast.dump(parsed)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _drop_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    match node.body:
        case [ast.Expr(value=ast.Constant(value=str())), *rest]:
            node.body = rest or [ast.Pass()]


# JSON

_ATTEMPTS = 100
"""Places in a text where a JSON value is looked for."""


def _json(text: str) -> Answer | None:
    for candidate in _json_candidates(text):
        try:
            value, _ = _DECODER.raw_decode(candidate)
            canonical = json.dumps(_comparable(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        except (ValueError, RecursionError):
            continue
        return Answer(canonical, canonical)
    return None


def _no_constant(name: str) -> Any:
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _json_candidates(text: str) -> Iterator[str]:
    stripped = text.strip()
    if _is_scalar(stripped):
        yield stripped
    places = re.finditer(r"[\[{]", text)
    for place, _ in zip(places, range(_ATTEMPTS), strict=False):
        yield text[place.start() :]


def _is_scalar(text: str) -> bool:
    try:
        _DECODER.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _comparable(value: Any) -> Any:
    match value:
        case float() if value.is_integer() and abs(value) < 1 << 53:
            return int(value)
        case list():
            return [_comparable(item) for item in value]
        case dict():
            return {key: _comparable(item) for key, item in value.items()}
        case _:
            return value


# What they share

_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_EMPHASIS = re.compile(r"\*\*|__|(?<!\w)[*_`](?=\S)|(?<=\S)[*_`](?!\w)")


def _marked(text: str) -> Iterator[str]:
    """What a text itself calls its answer, the last first."""
    yield from reversed(_BOXED.findall(text))
    for found in reversed([*_MARKED.finditer(text)]):
        yield found["rest"]


def is_marked(text: str) -> bool:
    """Whether a text says what its answer is."""
    return next(_marked(_without_emphasis(text[-_LONGEST:])), None) is not None


def _without_emphasis(text: str) -> str:
    return _EMPHASIS.sub("", text)


_READERS: Mapping[By, Callable[[str], Answer | None]] = {
    By.NUMBER: _number,
    By.CHOICE: _choice,
    By.LINE: _line,
    By.CODE: _code,
    By.JSON: _json,
}
