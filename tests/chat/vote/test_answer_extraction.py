"""What the answer of a reply is, and when two are the same."""

import ast
import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phichat.chat.vote.answer_extraction import AnswerKind, extract_answer


def key(text: str, by: AnswerKind) -> str | None:
    answer = extract_answer(text, by)
    return answer.key if answer else None


@settings(deadline=None)
@given(st.text(), st.sampled_from([by for by in AnswerKind if by is not AnswerKind.AUTO]))
def test_whatever_a_model_writes_can_be_read(text: str, by: AnswerKind) -> None:
    extract_answer(text, by)


@pytest.mark.parametrize("by", [by for by in AnswerKind if by is not AnswerKind.AUTO])
@pytest.mark.parametrize(
    "text",
    [
        "[" * 50_000,
        "1e" + "9" * 5000,
        "9" * 20_000,
        "```python\n" + "(" * 5000,
        '{"a":' * 20_000,
        "- " * 10_000,
        "\\boxed{" * 3000,
    ],
)
def test_what_a_model_writes_when_it_runs_wild_can_be_read(text: str, by: AnswerKind) -> None:
    extract_answer(text, by)


WAYS = (
    "{}",
    "The answer is {}.",
    "**{}**",
    "So it is\n\n\\boxed{{{}}}",
    "1 + 1 = 2, so 7 of 9 are gone. Answer: {}",
    "x = {}",
)


@given(st.integers(-(10**9), 10**9), st.sampled_from(WAYS), st.sampled_from(["{}", "{}.0", "{:,}", "{:,}.00"]))
def test_a_whole_number_is_the_same_however_it_is_written(number: int, way: str, form: str) -> None:
    assert key(way.format(form.format(number)), AnswerKind.NUMBER) == str(number)


@given(st.decimals(-10_000, 10_000, places=4), st.sampled_from(WAYS))
def test_a_decimal_is_the_same_whatever_its_zeros(number: Any, way: str) -> None:
    expected = key(str(Fraction(number)) if number else "0", AnswerKind.NUMBER)
    assert key(way.format(f"{number:f}000"), AnswerKind.NUMBER) == expected


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("There were 3, then 2 left, so 5 in all.", "5"),
        ("6 * 7 = 42. Then add 8 to get 50.", "50"),
        ("x = 42 (checked 3 times)", "42"),
        ("The answer is 4, because 2 + 2 = 4 and 3 + 3 = 6.", "4"),
        ("The answer is 6 * 7 = 42.", "42"),
        ("#### 1,234", "1234"),
        ("1.234.567,5", "1234567.5"),
        ("3,14", "3.14"),
        ("0,125", "0.125"),
        ("1,234", "1234"),
        ("1'234'567", "1234567"),
        ("12,34,567", "1234567"),
        ("1.5e3 m", "1500"),
        ("1.5 × 10^3", "1500"),
        ("-2.5 \\times 10^{-3}", "-0.0025"),
        ("3 million", "3000000"),
        ("$1,234.50", "1234.5"),
        ("-$5", "-5"),
        ("−7", "-7"),
        ("minus 7", "-7"),
        ("10-7", "7"),
        ("1/2", "0.5"),
        ("\\frac{2}{6}", "1/3"),
        ("1½ cups", "1.5"),
        ("2 1/4", "2.25"),
        ("The answer is four.", "4"),
        ("12km", "12"),
        ("50 %", "50%"),
        ("Antwort: 3,5 kg", "3.5"),
    ],
)
def test_numbers(text: str, number: str) -> None:
    assert key(text, AnswerKind.NUMBER) == number


@pytest.mark.parametrize("text", ["", "nothing", "CO2", "v1.2.3", "on 2024-05-01", "at 12:30", "5/0", "one of them"])
def test_what_is_no_number(text: str) -> None:
    assert key(text, AnswerKind.NUMBER) is None


@given(
    st.sampled_from("ABCDE"),
    st.sampled_from(
        ["{}", "({})", "{}.", "**{}**", "{}) Paris", "Option {}", "The answer is {}.", "The answer is ({}) Paris.",
         "The correct answer is option {} because A is wrong", "Answer: **{}**", "\\boxed{{\\text{{{}}}}}",
         "A) one\nB) two\nC) three\n\nThe answer is {}"]
    ),
)  # fmt: skip
def test_a_letter_is_the_same_however_it_is_given(letter: str, way: str) -> None:
    assert key(way.format(letter), AnswerKind.CHOICE) == letter


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("Yes, it is.", "yes"),
        ("**No.** Not at all", "no"),
        ("True", "yes"),
        ("That is not true.", "no"),
        ("The answer is: false", "no"),
        ("(b)", "B"),
        ("A dog is nice", None),
        ("I think so", None),
        ("Answer: I think so", None),
        ("The answer is a dog", None),
        ("Nobody knows", None),
    ],
)
def test_choices(text: str, choice: str | None) -> None:
    assert key(text, AnswerKind.CHOICE) == choice


def test_lines() -> None:
    same = ["Paris", "paris.", "**Paris**", "> `Paris`", "The answer is: Paris!", "It is\n\n- Paris\n", "# Paris"]
    assert {key(text, AnswerKind.LINE) for text in same} == {"paris"}
    assert (
        key("Paris\n\n" + "Because it has been so for as long as anybody can remember. " * 3, AnswerKind.LINE)
        == "paris"
    )
    assert key("C#", AnswerKind.LINE) != key("C", AnswerKind.LINE)
    assert key("\n \n...", AnswerKind.LINE) is None


def test_code_is_compared_by_what_it_does() -> None:
    one = "```python\ndef f(x):\n    '''Twice.'''\n    return x * 2  # so\n```"
    other = "Sure!\n\n```py\ndef f( x ):\n  return (x*2)\n```\nand then\n```python\nf(1)\n```"
    different = "```python\ndef f(x):\n    return x * 3\n```"
    assert key(one, AnswerKind.CODE) == key(other, AnswerKind.CODE) != key(different, AnswerKind.CODE)
    assert key("```js\nlet a  = 1;\n```", AnswerKind.CODE) == key("```js\nlet a = 1;\n\n```", AnswerKind.CODE)
    assert key("```python\n'only a docstring'\n```", AnswerKind.CODE) is not None
    assert key("no code", AnswerKind.CODE) is None


@given(st.sampled_from(["a = 'd'", "x=1", "class A:\n  'doc'\n  b: int = 2", "async def f():\n  'doc'\n  await g()"]))
def test_code_survives_being_laid_out_again(code: str) -> None:
    again = ast.unparse(ast.parse(code))
    assert key(f"```python\n{code}\n```", AnswerKind.CODE) == key(f"```python\n{again}\n```", AnswerKind.CODE)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), VALUES, min_size=1, max_size=4), st.integers(0, 4))
def test_json_is_the_same_however_it_is_laid_out(value: dict[str, Any], indent: int) -> None:
    turned = dict(reversed(value.items()))
    written = f"Here you are:\n```json\n{json.dumps(turned, indent=indent)}\n```\nAnything else?"
    assert key(json.dumps(value), AnswerKind.JSON) == key(written, AnswerKind.JSON)


def test_json_numbers_and_what_is_no_json() -> None:
    assert key('{"a": 1.0}', AnswerKind.JSON) == key('{"a":1}', AnswerKind.JSON)
    assert key("42", AnswerKind.JSON) == "42"
    assert key("[NaN] and {no}", AnswerKind.JSON) is None
