"""Export of conversations; each module writes one format."""

from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum

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
    from phichat.transcript import native_json
    from phichat.transcript.export import html, markdown, openai_jsonl, text

    writers: dict[ExportFormat, Callable[[Sequence[ConversationRecord]], Iterator[str]]] = {
        ExportFormat.MARKDOWN: markdown.write_markdown,
        ExportFormat.HTML: html.write_html,
        ExportFormat.JSON: native_json.write_native_json,
        ExportFormat.JSONL: openai_jsonl.write_jsonl,
        ExportFormat.TEXT: text.write_text,
    }
    return writers[export_format](conversations)
