"""Extracts the answer of a reply in a form that can be compared.

Each kind of answer has an extractor: it returns an `Answer`, or None where the text has none of that kind. An
extractor takes time linear in the length of the text, and raises nothing.
"""

import ast
import json
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from itertools import islice
from math import gcd
from typing import Any

_MAX_SCANNED_CHARS = 20_000
"""Characters at the end of a reply that are searched for a number or a choice."""


class AnswerKind(StrEnum):
    """Kind of answer, which decides how answers are compared."""

    AUTO = "auto"
    """Guessed from the form of the answers."""
    NUMBER = "number"
    CHOICE = "choice"
    LINE = "line"
    CODE = "code"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. key: equal for answers that mean the same. display: for people and for `--json`."""

    key: str
    display: str


def extract_answer(text: str, kind: AnswerKind) -> Answer | None:
    """Return the answer of that kind, which is not AUTO."""
    return _EXTRACTORS[kind](text)


# Numbers

_UNSIGNED_NUMBER = (
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
    rf"|(?P<plain>{_UNSIGNED_NUMBER})"
    r"(?:[eE](?P<exponent>[-+−]?\d+)(?!\w)"
    r"|\s?(?:[x×·*]|\\times|\\cdot)\s?10\s?(?:\^|\*\*)\s?\{?(?P<times_ten>[-−]?\d+)\}?)?)"
    r"(?:\s(?P<scale>thousand|million|billion|trillion)\b)?"
    r"(?P<percent>\s?(?:\\?%|percent\b|per cent\b|Prozent\b))?",
    re.IGNORECASE,
)
_SCALE_EXPONENTS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_MAX_DIGITS = 400

_MARKED_ANSWER = re.compile(
    r"(?:(?:final |correct |right |best |my )?(?:answer|result|solution|antwort|ergebnis|lösung)"
    r"(?:\s+(?:choice|option))?\s*(?:(?:is|are|ist|lautet|would be)\b|[:=：])(?:\s*[:=])?|####)\s*"
    r"(?P<rest>[^\n]{1,200})",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")
_EQUALS = re.compile(r"(?:=|≈|\bequals\b)\s*")
_CALCULATION = re.compile(r"[^\w\n]{0,5}[\d(][\d\s.,()+\-−–*/×·÷^]{0,100}[=≈]\s*")
_DATE_OR_TIME = re.compile(r"\b\d{1,4}([-/.])\d{1,2}\1\d{1,4}\b(?!\.\d)|\b\d{1,2}:\d\d(?::\d\d)?\b")
_NUMBER_WORDS = "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
_NUMBER_WORD = re.compile(rf"\W*({_NUMBER_WORDS})\b\W*", re.IGNORECASE)


def _extract_number(text: str) -> Answer | None:
    text = _DATE_OR_TIME.sub(" ", _searched_text(text))
    for part in _explicit_answers(text):
        calculation = _CALCULATION.match(part)
        if numbers := _find_numbers(part[calculation.end() :] if calculation else part):
            return numbers[0][1]
        if word := _NUMBER_WORD.match(part):
            return _parse_number_word(word)
    if word := _NUMBER_WORD.fullmatch(text):
        return _parse_number_word(word)
    for sentence in reversed(_SENTENCE_END.split(text)):
        numbers = _find_numbers(sentence)
        for equals in reversed([*_EQUALS.finditer(sentence)]):
            if number_after := next((value for at, value in numbers if equals.end() <= at <= equals.end() + 2), None):
                return number_after
        if numbers:
            return numbers[-1][1]
    return None


def _find_numbers(text: str) -> list[tuple[int, Answer]]:
    """Return each number with its offset."""
    return [(found.start(), value) for found in _NUMBER.finditer(text) if (value := _parse_number(found))]


def _parse_number_word(match: re.Match[str]) -> Answer:
    value = str(_NUMBER_WORDS.split("|").index(match[1].lower()))
    return Answer(value, value)


def _parse_number(match: re.Match[str]) -> Answer | None:
    value = _parse_magnitude(match)
    if value is None:
        return None
    if match["scale"]:
        value *= 10 ** _SCALE_EXPONENTS[match["scale"].lower()]
    if match["sign"] not in (None, "+"):
        value = -value
    display = _format_decimal(value) + ("%" if match["percent"] else "")
    return Answer(display, display)


def _parse_magnitude(match: re.Match[str]) -> Fraction | None:
    """Return the number without its sign and suffix; None for an invalid or a huge one."""
    top, bottom = match["top"] or match["over"], match["bottom"] or match["under"]
    if match["vulgar"]:
        top, bottom = unicodedata.normalize("NFKC", match["vulgar"]).split("⁄")
    if top:
        whole = int(match["whole"] or match["before"] or 0)
        return whole + Fraction(int(top), int(bottom)) if int(bottom) else None
    if match["ten"]:
        digits, exponent = "1", match["power"]
    else:
        digits, exponent = _strip_digit_groups(match["plain"]), match["exponent"] or match["times_ten"] or "0"
    if len(digits) > _MAX_DIGITS or len(exponent) > _MAX_DIGITS:
        return None
    power = int(exponent.replace("−", "-"))
    if abs(power) > _MAX_DIGITS:
        return None
    return Fraction(digits) * Fraction(10) ** power


def _strip_digit_groups(number: str) -> str:
    """Return the number with a decimal point as its only mark.

    One comma before three digits separates thousands, unless only a zero precedes it.
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


def _format_decimal(value: Fraction) -> str:
    """Return an integer, a finite decimal, or a fraction."""
    digits, denominator, places = abs(value.numerator), value.denominator, 0
    while (divisor := gcd(denominator, 10)) > 1:
        digits, denominator, places = digits * (10 // divisor), denominator // divisor, places + 1
    if denominator > 1 or places == 0:
        return str(value)
    text = str(digits).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{text[:-places]}.{text[-places:]}"


# Choices

_LETTER = re.compile(r"[\s(\[{]*(?:\\text\{)?[(\[]?(?P<letter>[A-Ja-j])(?![\w'’+#])[)\]}.:]*")
_YES_NO = re.compile(r"\W*(?P<word>yes|no|true|false|ja|nein|wahr|falsch)\b", re.IGNORECASE)
_OPTION = re.compile(r"\b(?:option|choice|answer)\s+\(?(?P<letter>[A-J])\b\)?(?!['’+#])", re.IGNORECASE)
_BRACKETED_LETTER = re.compile(r"(?<!\w)\((?P<letter>[A-Ja-j])\)(?!\w)")
_OPTION_LINE = re.compile(r"^\W{0,3}(?P<letter>[A-J]|[a-j](?=\)))(?:\s*$|[).:]+(?:\s|$))")
_NEGATION = re.compile(r"\b(?:not|isn['’]t|nicht)\s+(?:true|correct|wahr)\b", re.IGNORECASE)
_YES_NO_ANYWHERE = re.compile(r"\b(?:yes|no|true|false)\b", re.IGNORECASE)


def extract_strict_choice(text: str) -> Answer | None:
    """Return the choice of a text that is clearly one."""
    text = _searched_text(text)
    for part in _explicit_answers(text):
        if (letter := _LETTER.match(part)) and not (letter["letter"] in "aI" and part[letter.end() :].strip()):
            return _parse_letter(letter)
        if option := _OPTION.match(part.lstrip(" (")):
            return _parse_letter(option)
        if word := _YES_NO.match(part):
            return _parse_yes_no(word["word"])
    lines = [line for line in text.splitlines() if line.strip()]
    for line in (*lines[-1:], *lines[:1]):
        if line_match := _OPTION_LINE.match(line):
            # A list of options isn't a choice.
            if sum(bool(_OPTION_LINE.match(other)) for other in lines) == 1:
                return _parse_letter(line_match)
        elif option := next(_OPTION.finditer(line), None):
            return _parse_letter(option)
    first = _YES_NO.match(text)
    return _parse_yes_no(first["word"]) if first else None


def _extract_choice(text: str) -> Answer | None:
    if strict := extract_strict_choice(text):
        return strict
    text = _searched_text(text)
    if letters := [*_OPTION.finditer(text)] or [*_BRACKETED_LETTER.finditer(text)]:
        return _parse_letter(letters[-1])
    if _NEGATION.search(text):
        return Answer("no", "false")
    words = _YES_NO_ANYWHERE.findall(text)
    return _parse_yes_no(words[-1]) if words else None


def _parse_letter(match: re.Match[str]) -> Answer:
    letter = match["letter"].upper()
    return Answer(letter, letter)


def _parse_yes_no(word: str) -> Answer:
    word = word.lower()
    return Answer("yes" if word in ("yes", "true", "ja", "wahr") else "no", word)


# Lines

_MAX_SHORT_LINE_CHARS = 80
_MARKDOWN = re.compile(
    r"^\s*(?:(?:[-*+>]|#{1,6}|\d{1,3}[.)])\s+)+|[*_`~]+(?=\S)|(?<=\S)[*_`~]+|!?\[([^\]\n]{0,200})\]\([^)\n]{0,400}\)"
)
_PUNCTUATION = re.compile(r"(?<!\w)[^\w\s+\-−$€£%]+|[^\w\s+\-−$€£%#]+(?!\w)")


def _extract_line(text: str) -> Answer | None:
    for part in _explicit_answers(_searched_text(text)):
        if answer := _normalize_line(part):
            return answer
    answers = [answer for line in text.splitlines() if (answer := _normalize_line(line))]
    if not answers:
        return None
    # An answer may come before its reasons, or after them.
    return answers[0 if len(answers[-1].display) > _MAX_SHORT_LINE_CHARS >= len(answers[0].display) else -1]


def _normalize_line(line: str) -> Answer | None:
    display = _MARKDOWN.sub(lambda found: found[1] or "", unicodedata.normalize("NFKC", line))
    key = " ".join(_PUNCTUATION.sub(" ", display).casefold().split())
    return Answer(key, " ".join(display.split()).rstrip(" .,:;!")) if key else None


def has_short_answer(text: str) -> bool:
    """Return whether a text has a line that could be its whole answer."""
    answer = _extract_line(text)
    return answer is not None and len(answer.display) <= _MAX_SHORT_LINE_CHARS


# Code

_MAX_CODE_CHARS = 200_000


def _extract_code(text: str) -> Answer | None:
    from phichat.codecheck.blocks import split_answer

    blocks, _ = split_answer(text)
    block = next((block for block in blocks if block.language is not None and block.code.strip()), None)
    if block is None:
        return None
    code = block.code.strip("\n")
    tree = _normalized_ast(code) if block.language in ("python", "") else None
    return Answer(tree or " ".join(code.split()), code)


def _normalized_ast(code: str) -> str | None:
    """Return Python code without comments, docstrings and layout; None where it cannot be parsed."""
    if len(code) > _MAX_CODE_CHARS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes
            tree = ast.parse(code)
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                match node.body:
                    case [ast.Expr(value=ast.Constant(value=str())), *rest]:
                        node.body = rest or [ast.Pass()]
        return ast.dump(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


# JSON

_MAX_JSON_CANDIDATES = 100
"""Positions in a text that are tried as the start of a JSON value."""


def _extract_json(text: str) -> Answer | None:
    for candidate in _find_json_candidates(text):
        try:
            value, _ = _DECODER.raw_decode(candidate)
            canonical = json.dumps(_canonicalize(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        except (ValueError, RecursionError):
            continue
        return Answer(canonical, canonical)
    return None


def _reject_constant(name: str) -> Any:
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_constant=_reject_constant)


def _find_json_candidates(text: str) -> Iterator[str]:
    stripped = text.strip()
    with suppress(ValueError, RecursionError):
        _DECODER.decode(stripped)
        yield stripped
    for bracket in islice(re.finditer(r"[\[{]", text), _MAX_JSON_CANDIDATES):
        yield text[bracket.start() :]


def _canonicalize(value: Any) -> Any:
    match value:
        case float() if value.is_integer() and abs(value) < 1 << 53:
            return int(value)
        case list():
            return [_canonicalize(item) for item in value]
        case dict():
            return {key: _canonicalize(item) for key, item in value.items()}
        case _:
            return value


# Shared

_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_EMPHASIS = re.compile(r"\*\*|__|(?<!\w)[*_`](?=\S)|(?<=\S)[*_`](?!\w)")


def _explicit_answers(text: str) -> Iterator[str]:
    """Yield the passages that a text marks as its answer, the last first."""
    yield from reversed(_BOXED.findall(text))
    for match in reversed([*_MARKED_ANSWER.finditer(text)]):
        yield match["rest"]


def has_explicit_answer(text: str) -> bool:
    """Return whether a text marks its answer."""
    return next(_explicit_answers(_searched_text(text)), None) is not None


def _searched_text(text: str) -> str:
    """Return the end of a reply without Markdown emphasis."""
    return _EMPHASIS.sub("", text[-_MAX_SCANNED_CHARS:])


_EXTRACTORS: Mapping[AnswerKind, Callable[[str], Answer | None]] = {
    AnswerKind.NUMBER: _extract_number,
    AnswerKind.CHOICE: _extract_choice,
    AnswerKind.LINE: _extract_line,
    AnswerKind.CODE: _extract_code,
    AnswerKind.JSON: _extract_json,
}
