"""From pieces to text: what comes out does not depend on where the pieces break."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from phichat.engine.stream_filters import ReasoningSplitter, StopStringFilter, make_utf8_decoder


def cut(text: str, at: list[int]) -> list[str]:
    places = sorted({place % (len(text) + 1) for place in at} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(places)]


def split(prompt_end: str, pieces: list[str]) -> tuple[str, str]:
    splitter = ReasoningSplitter(prompt_end)
    said = [splitter.feed(piece) for piece in pieces] + [splitter.flush()]
    return "".join(reasoning for reasoning, _ in said), "".join(text for _, text in said)


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))), st.lists(st.integers(0, 500)))
def test_characters_are_whole_wherever_the_bytes_break(text: str, at: list[int]) -> None:
    content = text.encode()
    places = sorted({place % (len(content) + 1) for place in at} | {0, len(content)})
    stream = make_utf8_decoder()
    assert "".join(stream.decode(content[a:b]) for a, b in pairwise(places)) == text


@given(st.lists(st.binary()))
def test_invalid_bytes_hold_back_at_most_one_character(pieces: list[bytes]) -> None:
    stream = make_utf8_decoder()
    shown = "".join(map(stream.decode, pieces))
    whole = b"".join(pieces).decode("utf-8", "replace")
    assert whole in (shown, shown + "\ufffd")


@given(st.text(alphabet="abx"), st.lists(st.text(alphabet="abx", min_size=1), max_size=3), st.lists(st.integers(0, 99)))
def test_stop_strings_straddle_pieces(text: str, stops: list[str], at: list[int]) -> None:
    matcher = StopStringFilter(stops)
    shown = "".join(map(matcher.feed, cut(text, at)))
    if not matcher.is_stopped:
        shown += matcher.flush()
    found = [place for place in map(text.find, stops) if place >= 0]
    assert matcher.is_stopped == bool(found)
    if not found:
        assert shown == text
    else:
        # A stop string that is found earlier may end later than one that begins before it.
        assert text.startswith(shown)
        assert not any(stop in shown for stop in stops)


@given(st.lists(st.integers(0, 99)))
def test_reasoning_is_told_from_the_answer(at: list[int]) -> None:
    text = "\n<think>\n Is it 4? Maybe.\n</think>\n\nIt is 4.\n"
    assert split("assistant\n", cut(text, at)) == ("Is it 4? Maybe.", "It is 4.\n")


@given(st.lists(st.integers(0, 99)))
def test_the_prompt_may_have_opened_it(at: list[int]) -> None:
    assert split("<think>\n", cut("Hm.</think>Yes", at)) == ("Hm.", "Yes")


@given(st.text(alphabet="<>/think ab\n"), st.lists(st.integers(0, 99)))
def test_no_word_is_lost(text: str, at: list[int]) -> None:
    reasoning, answer = split("", cut(text, at))
    kept = "".join((reasoning + answer).split())
    marks = "".join(text.split())
    if text.lstrip().startswith("<think>"):
        assert kept == marks.replace("<think>", "", 1).replace("</think>", "", 1)
    else:
        assert kept == marks


@given(st.lists(st.integers(0, 99)))
def test_the_same_words_later_are_text(at: list[int]) -> None:
    text = "Write <think>like this</think>."
    assert split("", cut(text, at)) == ("", text)


def test_an_unfinished_thought_stays_reasoning() -> None:
    assert split("", ["<think>", "so far </thi"]) == ("so far </thi", "")
