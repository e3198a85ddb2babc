"""What the sanitiser promises to everything that is shown."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phichat.sanitize import StreamSanitizer, sanitize, sanitize_line, to_json

DANGEROUS = {*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), "\u202e", "\u2066", "\u200b", "\ufeff"} - {
    "\t",
    "\n",
}


@given(st.text())
def test_no_character_that_steers_a_terminal_gets_through(text: str) -> None:
    assert not DANGEROUS & set(sanitize(text))


@given(st.text())
def test_output_can_be_encoded(text: str) -> None:
    sanitize(text + "\ud800").encode("utf-8")


@given(st.text(alphabet=st.characters(exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp", "Mn", "Lo", "Cn", "Co"))))
def test_ordinary_text_is_untouched(text: str) -> None:
    assert sanitize(text.replace("\xad", "")) == text.replace("\xad", "")


@pytest.mark.parametrize("text", ["👩‍💻 and 👨‍👩‍👧", "می‌خواهم", "क्‍ष", "tab\tand\nnewline"])
def test_scripts_and_emoji_keep_their_joiners(text: str) -> None:
    assert sanitize(text) == text


def test_joiners_hide_nothing_in_ascii() -> None:
    assert sanitize("pass\u200dword") == "pass<U+200D>word"


def test_escape_sequences_are_shown() -> None:
    assert sanitize("\x1b]52;c;AAAA\x07") == "␛]52;c;AAAA␇"
    assert sanitize("\x9b31m") == "<U+009B>31m"


def test_a_name_is_one_line() -> None:
    assert sanitize_line("a\nb\r\nc\x1b") == "a b c␛"


@given(st.lists(st.text(alphabet="ab\r\n\x1b\u200d👩é\u202e")))
def test_pieces_read_like_the_whole(pieces: list[str]) -> None:
    stream = StreamSanitizer()
    assert "".join(map(stream.feed, pieces)) + stream.flush() == sanitize("".join(pieces))


@given(st.text())
def test_json_decodes_to_the_same_text_and_holds_no_control_bytes(text: str) -> None:
    document = to_json({"text": text})
    assert json.loads(document) == {"text": text}
    assert not DANGEROUS & set(document)
