"""Exports of 500 hostile conversations in every format, read back to the same texts.

The conversations are hypothesis's (tests/support/conversation_strategies.py): fences in fences, HTML, control bytes,
right-to-left, emoji, NUL, lone surrogates; every tenth gets a line of a megabyte. Markdown is read by a
CommonMark parser, HTML by the standard library's parser, JSON by phichat.

    python stress/export_round_trips.py [--examples 500]
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))

from common import say
from hypothesis import HealthCheck, given, settings

from phichat.sanitize import unescape
from phichat.transcript import native_json
from phichat.transcript.export import ExportFormat, write_export
from phichat.transcript.records import ConversationRecord
from support.conversation_strategies import Page, conversations, read_markdown, shown


def main() -> None:
    """Make, export, read and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=500)
    examples = parser.parse_args().examples
    done = 0

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(conversations())
    def check(record: ConversationRecord) -> None:
        nonlocal done
        done += 1
        if done % 10 == 0 and record.turns:
            long = replace(record.turns[-1], prompt="x" * 1_000_000, text="[<b>`" * 200_000)
            record = replace(record, turns=(*record.turns[:-1], long))
        said = shown(record)
        markdown, page, whole = ("".join(write_export([record], form)) for form in list(ExportFormat)[:3])
        assert read_markdown(markdown) == [pair for pair in said if pair[1] or pair[0] == "user"]
        found = Page(page)
        assert found.texts() == said
        assert not found.open
        assert not found.deepest_error
        typed = [text.replace("\r\n", "\n") for role, text in said if role != "assistant"]
        assert set(typed) <= {unescape(text) for text in found.sections}
        assert list(native_json.read_native_json(json.loads(whole))) == [record]

    check()
    say(f"{done} conversations: Markdown, HTML and JSON are read back to the same texts")


if __name__ == "__main__":
    main()
