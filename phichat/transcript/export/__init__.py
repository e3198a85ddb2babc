"""Export of conversations; each module writes one format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import assert_never

from phichat.transcript.records import ConversationRecord


class ExportFormat(StrEnum):
    """The formats, by the suffix of their files."""

    MARKDOWN = "md"
    HTML = "html"
    JSON = "json"
    JSONL = "jsonl"
    TEXT = "txt"


def write_export(conversations: Sequence[ConversationRecord], export_format: ExportFormat) -> Iterator[str]:
    """Yield the document in pieces, without control characters."""
    match export_format:
        case ExportFormat.MARKDOWN:
            from phichat.transcript.export import markdown

            return markdown.write_markdown(conversations)
        case ExportFormat.HTML:
            from phichat.transcript.export import html

            return html.write_html(conversations)
        case ExportFormat.JSON:
            from phichat.transcript import native_json

            return native_json.write_native_json(conversations)
        case ExportFormat.JSONL:
            from phichat.transcript.export import openai_jsonl

            return openai_jsonl.write_jsonl(conversations)
        case ExportFormat.TEXT:
            from phichat.transcript.export import text

            return text.write_text(conversations)
        case _:
            assert_never(export_format)
