"""Decoder of server-sent events: any split of the bytes gives the same documents, within bounds."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phichat.engine.ipc.protocol import OutputDelta
from phichat.engine.remote.errors import RemoteError, RemoteErrorKind
from phichat.engine.remote.response import CompletionParser
from phichat.engine.remote.sse import MAX_EVENT_BYTES, SseDecoder, parse_chunk, parse_document
from phichat.types import SamplingParams
from support.fake_openai_server import chunk

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def documents(pieces: list[bytes]) -> list[Any]:
    events = SseDecoder()
    return [found for piece in pieces for found in events.feed(piece)] + list(events.flush())


@given(
    st.lists(TEXTS, max_size=6),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["data:", "data: "]),
    st.booleans(),
    st.lists(st.integers(0, 400), max_size=8),
)
def test_how_it_is_cut_and_written_makes_no_difference(
    words: list[str], end: str, field: str, marked: bool, cuts: list[int]
) -> None:
    said = [{"text": word} for word in words]
    lines = [f": hello{end}" + field + json.dumps(one, ensure_ascii=False) + end + end for one in said]
    whole = ("\ufeff" * marked + "".join(lines)).encode()
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    assert documents([whole[start:stop] for start, stop in pairwise(places)]) == said


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_garbage_is_documents_or_trouble(pieces: list[bytes]) -> None:
    try:
        for found in documents(pieces):
            parse_chunk(found)
    except RemoteError as trouble:
        assert trouble.kind in (RemoteErrorKind.BAD_JSON, RemoteErrorKind.BAD_STREAM, RemoteErrorKind.ERROR_IN_STREAM)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@given(
    JSON,
    st.sampled_from(["choices", "usage", "error", "delta", "message", "content", "reasoning", "finish_reason"]),
)
def test_any_value_in_any_place_is_a_piece_or_trouble(value: Any, place: str) -> None:
    said: dict[str, Any] = {**chunk("stop", content="Hi"), "usage": {"prompt_tokens": 3}}
    inner = said["choices"][0]
    for holder in (said, inner, inner["delta"], said["usage"]):
        if place in holder or holder is said:
            try:
                deltas, _ = parse_chunk({**said, place: value} if holder is said else _with(said, holder, place, value))
            except RemoteError as trouble:
                assert trouble.kind in (RemoteErrorKind.BAD_STREAM, RemoteErrorKind.ERROR_IN_STREAM)
            else:
                "".join(delta.text + delta.reasoning for delta in deltas).encode()


def _with(said: dict[str, Any], holder: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    before = holder[place]
    holder[place] = value
    copy: dict[str, Any] = json.loads(json.dumps(said))
    holder[place] = before
    return copy


@pytest.mark.parametrize(
    "piece",
    [b"x" * 65536, b": x" * 20000, b"data: " + b"x" * 65530 + b"\n", b"data:\n" * 10000, b"error\n" * 10000],
    ids=["line", "comment", "event", "empty data", "empty error"],
)
def test_what_does_not_end_is_left(piece: bytes) -> None:
    events = SseDecoder()
    with pytest.raises(RemoteError) as raised:
        for _ in range(MAX_EVENT_BYTES * 3 // len(piece)):
            list(events.feed(piece))
    assert raised.value.kind is RemoteErrorKind.TOO_LARGE


def test_comments_without_end_take_no_room() -> None:
    events = SseDecoder()
    for _ in range(100):
        assert list(events.feed(b": still here\n" * 5000)) == []
    assert (events.line_count, events.document_count) == (500_000, 0)
    assert [value for value in vars(events).values() if isinstance(value, (list, bytes, bytearray)) and value] == []


def test_a_whole_document_may_have_a_byte_order_mark() -> None:
    assert parse_document(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    for nonsense in (b"", b"[" * 100_000, b"[1]", b"9" * 5000, b"\xff"):
        with pytest.raises(RemoteError):
            parse_document(nonsense)


def test_the_first_of_several_answers_is_read() -> None:
    others = {
        **chunk(),
        "choices": [{"index": 1, "delta": {"content": "no"}}, {"index": 0, "delta": {"content": "yes"}}],
    }
    for document in (others, {"choices": [{"delta": {"content": "yes"}}]}, {"choices": [{**others["choices"][1]}]}):
        (output,) = CompletionParser("lab", SamplingParams(), ()).feed(document)
        assert output.output == OutputDelta("", "yes", 0)


@pytest.mark.parametrize(
    "said",
    [
        {"error": {"message": "CUDA"}},
        {"error": "CUDA"},
        {"object": "error", "message": "CUDA", "code": 500},
        {"detail": "CUDA"},
    ],
)
def test_an_error_in_each_of_its_forms(said: dict[str, Any]) -> None:
    with pytest.raises(RemoteError) as raised:
        parse_chunk(said)
    assert (raised.value.kind, raised.value.message) == (RemoteErrorKind.ERROR_IN_STREAM, "CUDA")


def test_an_error_in_a_field_of_its_own() -> None:
    (found,) = documents([b'error: {"code": 500, "message": "CUDA"}\n\n'])
    with pytest.raises(RemoteError) as raised:
        parse_chunk(found)
    assert raised.value.message == "CUDA"
