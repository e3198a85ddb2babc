"""What leaves in a file is read back, with parsers that know nothing of phichat."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phichat.code_report import CodeReport
from phichat.errors import TranscriptFileError
from phichat.sanitize import escape, sanitize, unescape
from phichat.transcript import native_json
from phichat.transcript.export import ExportFormat, write_export
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.types import FinishReason, ModelInfo
from support.conversation_strategies import Page, conversations, read_markdown, shown, texts

NOW = datetime(2026, 11, 21, 8, 30, tzinfo=UTC)

few = settings(max_examples=60, deadline=None)

OURS = {
    *(("html", a) for a in [("lang",)]),
    *(("meta", a) for a in [("charset",), ("content", "http-equiv"), ("content", "name")]),
    *((tag, ()) for tag in ["head", "title", "style", "body", "main", "nav", "ol", "ul", "li", "header", "script"]),
    *((tag, ()) for tag in ["h1", "h2", "h3", "h4", "h5", "h6", "p", "em", "strong", "s", "code", "br", "hr"]),
    *((tag, ()) for tag in ["blockquote", "table", "thead", "tbody", "tr", "th", "td", "details", "summary"]),
    *((tag, ("class",)) for tag in ["p", "span", "section", "div", "figure", "th", "td"]),
    *[("pre", ("tabindex",)), ("ol", ("start",)), ("div", ("class", "dir")), ("h1", ("dir",)), ("article", ("id",))],
    *[("button", ("class", "type")), ("script", ("id", "type")), ("a", ("dir", "href"))],
    ("a", ("href", "rel", "target")),
}
"""Elements with the names of their attributes."""


def conversation(*said: tuple[str, str], **fields: object) -> ConversationRecord:
    turns = [
        replace(
            TurnRecord(f"t{at}", f"t{at - 1}" if at else None, NOW, prompt, text, finish_reason=FinishReason.STOP),
            **fields,  # type: ignore[arg-type]
        )
        for at, (prompt, text) in enumerate(said)
    ]
    return ConversationRecord("c1", "A title", NOW, NOW, tuple(turns), turns[-1].id if turns else None)


def exported(form: ExportFormat, *records: ConversationRecord) -> str:
    return "".join(write_export(records, form))


@few
@given(texts)
def test_an_escaped_text_is_safe_to_show_and_comes_back(text: str) -> None:
    assert sanitize(escape(text)) == escape(text)
    assert unescape(escape(text)) == text


@few
@given(conversations())
def test_markdown_is_read_back(record: ConversationRecord) -> None:
    assert read_markdown(exported(ExportFormat.MARKDOWN, record)) == [
        pair for pair in shown(record) if pair[1] or pair[0] == "user"
    ]


@few
@given(st.lists(conversations(), max_size=3))
def test_html_is_read_back_and_holds_only_our_elements(records: list[ConversationRecord]) -> None:
    page = Page(exported(ExportFormat.HTML, *records))
    said = [pair for record in records for pair in shown(record)]
    assert page.texts() == said
    typed = [text for role, text in said if role != "assistant"]
    assert [unescape(text) for text in page.sections] == [text.replace("\r\n", "\n") for text in typed]
    assert not page.open
    assert page.deepest_error == ""
    assert page.elements <= OURS
    assert all(re.match("https?:|mailto:|#c", address) for address in page.addresses)


@few
@given(st.lists(conversations(), max_size=3, unique_by=lambda record: record.id))
def test_json_is_read_back_whole(records: list[ConversationRecord]) -> None:
    written = exported(ExportFormat.JSON, *records)
    assert list(native_json.read_native_json(json.loads(written))) == records
    assert exported(ExportFormat.JSON, *native_json.read_native_json(json.loads(written))) == written
    written.encode()


@few
@given(conversations())
def test_no_form_has_a_character_that_steers_a_terminal(record: ConversationRecord) -> None:
    for form in ExportFormat:
        text = exported(form, record)
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)


def test_lines_of_a_megabyte() -> None:
    record = conversation(("x" * 1_000_000, "[" * 1_000_000), ("a", "*a" * 500_000), ("`" * 1_000_000, "<b>" * 300_000))
    assert read_markdown(exported(ExportFormat.MARKDOWN, record)) == shown(record)
    assert Page(exported(ExportFormat.HTML, record)).texts() == shown(record)


def test_an_answer_renders_and_what_it_leaves_open_ends_with_it() -> None:
    record = conversation(
        ("one", "Use `List<T>`:\n\n```python\nx = '<b>'"), ("two", "<!-- for ever"), ("three", "<details>")
    )
    text = exported(ExportFormat.MARKDOWN, record)
    assert "Use `List<T>`:\n\n```python\nx = '<b>'\n```\n" in text
    assert "\n\\<!-- for ever\n" in text
    assert "\n\\<details>\n" in text


def test_an_answer_makes_up_no_turn() -> None:
    forged = "# Prompt 2\n\n> Yes, delete it\n\nAnswer 2: m\n===\n\n```\n# code\n```\n\n## Below"
    text = exported(ExportFormat.MARKDOWN, conversation(("p", forged)))
    assert "\n## Prompt 2\n" in text
    assert "\n\\===\n" in text
    assert "\n# code\n" in text
    assert "\n## Below" in text
    assert read_markdown(text) == [("user", "p"), ("assistant", forged)]


def test_line_ends_of_windows_are_kept_and_not_shown() -> None:
    record = conversation(("File: a.py\n```\r\nx\r\n```", "a\r\nb"), ("x\r\ny\r\n", "z"))
    text = exported(ExportFormat.MARKDOWN, record)
    assert read_markdown(text) == shown(record)
    assert "a\nb\n" in text
    assert "\nx\ny\n\n```" in text


def test_a_prompt_of_one_line_is_a_quote_and_others_are_fenced() -> None:
    text = exported(
        ExportFormat.MARKDOWN, conversation(("What is __init__?", "x"), ("1. a\n```\nb", "y"), ("1. a", "z"))
    )
    assert "> What is \\_\\_init\\_\\_?\n" in text
    assert "\n````text\n1. a\n```\nb\n````\n" in text
    assert "> 1\\. a\n" in text


def test_a_reader_is_told_what_an_answer_is_not() -> None:
    for form in (ExportFormat.MARKDOWN, ExportFormat.HTML, ExportFormat.TEXT):

        def said(form: ExportFormat = form, **fields: object) -> str:
            return exported(form, conversation(("p", "a"), **fields)).replace("\\", "")

        assert "cut off" in said(finish_reason=None)
        assert "cancelled" in said(finish_reason=FinishReason.CANCELLED)
        assert "the engine died" in said(finish_reason=FinishReason.ERROR, error="the engine died")
        assert "oldest 2 turns" in said(dropped_turns=2)
        assert "no such package: foo" in said(code=CodeReport(warnings=("no such package: foo",)))
        assert "smollm2-135m" in said(model=ModelInfo("smollm2-135m"))


def test_branches_that_are_not_shown_are_counted() -> None:
    record = conversation(("p", "a"))
    record = replace(record, turns=(*record.turns, TurnRecord("t9", None, NOW, "other")))
    for form in (ExportFormat.MARKDOWN, ExportFormat.HTML, ExportFormat.TEXT):
        assert "1 turn of other branches" in exported(form, record)
        assert "other\n" not in exported(form, record)


def test_html_loads_nothing_and_runs_only_its_own_script() -> None:
    page = exported(ExportFormat.HTML, conversation(("p", "![i](http://x/y.png)\n\n```python\ndef f(): pass\n```")))
    assert "default-src 'none'" in page
    assert "<img" not in page
    assert '<span class="k">def</span>' in page
    assert "unsafe-inline" not in page


def test_jsonl_has_the_turns_that_ended() -> None:
    from phichat.transcript.export import openai_jsonl

    record = conversation(("p", "a"), ("q", "b"), system="s")
    cut = replace(record, turns=(record.turns[0], replace(record.turns[1], finish_reason=FinishReason.CANCELLED)))
    said = [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}]
    assert json.loads(exported(ExportFormat.JSONL, cut)) == {"messages": said}
    assert openai_jsonl.describe_omissions([record]) == ""
    assert (
        openai_jsonl.describe_omissions([cut])
        == "Left out: 1 unfinished or empty turn; the JSON export has everything."
    )


@pytest.mark.parametrize(
    "damaged",
    [
        {"format": "phichat", "version": 2},
        {"format": "phichat", "version": 1},
        {"format": "phichat", "version": 1, "conversations": [3]},
        {"format": "phichat", "version": 1, "conversations": [{"id": "x"}]},
        {
            "format": "phichat",
            "version": 1,
            "conversations": [{"id": 3, "title": "", "created_at": "", "updated_at": ""}],
        },
    ],
)
def test_a_damaged_document_is_refused(damaged: dict[str, object]) -> None:
    with pytest.raises(TranscriptFileError):
        list(native_json.read_native_json(damaged))
