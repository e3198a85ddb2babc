"""Conversations in forms that people share and programs process; each module is one form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import assert_never

from phichat.transcript.records import ConversationRecord


class Format(StrEnum):
    """The forms, by the suffix of their files."""

    MARKDOWN = "md"
    HTML = "html"
    JSON = "json"
    JSONL = "jsonl"
    TEXT = "txt"


def write(conversations: Sequence[ConversationRecord], form: Format) -> Iterator[str]:
    """The document in pieces, with no character that could steer a terminal."""
    match form:
        case Format.MARKDOWN:
            from phichat.transcript.export import markdown

            return markdown.write(conversations)
        case Format.HTML:
            from phichat.transcript.export import html

            return html.write(conversations)
        case Format.JSON:
            from phichat.transcript import document

            return document.write(conversations)
        case Format.JSONL:
            from phichat.transcript.export import messages

            return messages.write(conversations)
        case Format.TEXT:
            from phichat.transcript.export import plain

            return plain.write(conversations)
        case _:
            assert_never(form)
