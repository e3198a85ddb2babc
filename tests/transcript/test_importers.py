"""What other programs have kept comes in whole, and only once."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phichat.errors import TranscriptFileError
from phichat.transcript.importers import read_file
from phichat.transcript.records import ConversationRecord

llm = pytest.importorskip("llm")
sqlite_utils = pytest.importorskip("sqlite_utils")


class Parrot(llm.Model):  # type: ignore[misc]
    """A model of llm's that thinks, and answers with what it was asked."""

    model_id = "parrot"
    attachment_types = ("image/png",)

    class Options(llm.Options):  # type: ignore[misc]
        temperature: float | None = None
        seed: int | None = None

    def execute(self, prompt: Any, stream: bool, response: Any, conversation: Any) -> Iterator[Any]:
        from llm.parts import StreamEvent

        response.set_usage(input=3, output=5)
        yield StreamEvent("reasoning", f"they said {prompt.prompt[:5]}")
        yield StreamEvent("text", f"You said: {prompt.prompt}")


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return tmp_path / "logs.db"


def logged(path: Path, *responses: Any) -> None:
    database = sqlite_utils.Database(path)
    for response in responses:
        response.text()
        response.log_to_db(database)
    database.close()


def pairs(conversation: ConversationRecord) -> list[tuple[str, str]]:
    return [(turn.prompt, turn.text) for turn in conversation.get_branch()]


def test_llm_conversations_with_system_prompts_fragments_reasoning_and_options(logs: Path) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    talk = Parrot().conversation()
    first = talk.prompt("Hi\x00there", system="Be kind.", system_fragments=["Be brief. "], temperature=0.5, seed=7)
    logged(logs, first)
    second = talk.prompt("And now?", fragments=["A long novel.\n", "Another."])
    logged(
        logs, second, Parrot().prompt("Alone 🦊", attachments=[llm.Attachment(type="image/png", url="http://x/y.png")])
    )
    [one, other] = read_file(logs)
    assert one.origin == f"llm:{talk.id}"
    assert pairs(one) == [
        ("Hi\x00there", "You said: Hi\x00there"),
        ("A long novel.\n\nAnother.\nAnd now?", "You said: A long novel.\n\nAnother.\nAnd now?"),
    ]
    turn = one.turns[0]
    assert turn.system == "Be brief.\n\nBe kind."
    assert turn.reasoning == "they said Hi\x00th"
    assert turn.model is not None
    assert turn.model.name == "parrot"
    assert turn.params is not None
    assert (turn.params.temperature, turn.seed) == (0.5, 7)
    assert turn.usage is not None
    assert (turn.usage.prompt_tokens, turn.usage.completion_tokens) == (3, 5)
    assert before < turn.created_at < datetime.now(UTC)
    assert turn.created_at.isoformat()[:19] == first.datetime_utc()[:19]
    assert pairs(other) == [("Alone 🦊\n\n[attached: image/png http://x/y.png]", "You said: Alone 🦊")]


def test_reading_changes_nothing_and_gives_the_same_twice(logs: Path) -> None:
    talk = Parrot().conversation()
    logged(logs, talk.prompt("one"), talk.prompt("two"))
    before = logs.read_bytes()
    assert list(read_file(logs)) == list(read_file(logs))
    assert logs.read_bytes() == before
    assert [path.name for path in logs.parent.iterdir()] == ["logs.db"]


def test_a_log_that_is_being_written(logs: Path) -> None:
    writer = sqlite3.connect(logs)
    writer.execute("pragma journal_mode = wal")
    logged(logs, Parrot().prompt("in the write-ahead log"))
    [conversation] = read_file(logs)
    assert pairs(conversation)[0][0] == "in the write-ahead log"
    writer.close()


def old_log(path: Path) -> None:
    """As the last llm before the tree of messages wrote it, made by llm's own migrations."""
    from llm import migrations

    database = sqlite_utils.Database(path)
    migrations.ensure_migrations_table(database)
    for migration in migrations.MIGRATIONS:
        if migration.__name__.startswith("m023"):
            break
        migration(database)
        database["_llm_migrations"].insert({"name": migration.__name__, "applied_at": ""})
    identity = "01h53zma5txeby33t1kbe3xk8"
    database["conversations"].insert({"id": f"{identity}q", "name": "The title", "model": "gpt"})
    database["fragments"].insert_all(
        [{"id": 1, "hash": "1", "content": "a file"}, {"id": 2, "hash": "2", "content": "rules"}]
    )
    rows = (
        ("q", "first", "be", '{"temperature": 0.2}', "one", f"{identity}q", 1500, "2023-07-11T22:24:37.308000"),
        ("r", "second", None, "{}", "two", f"{identity}q", 10, "2023-07-11T22:25:00"),
        ("s", "alone", None, None, "three", None, None, "2023-07-12T00:00:00"),
    )
    names = ("prompt", "system", "options_json", "response", "conversation_id", "duration_ms", "datetime_utc")
    for last, *values in rows:
        database["responses"].insert({"id": identity + last, "model": "gpt", **dict(zip(names, values, strict=True))})
    database["prompt_fragments"].insert({"response_id": f"{identity}r", "fragment_id": 1, "order": 0})
    database["system_fragments"].insert({"response_id": f"{identity}r", "fragment_id": 2, "order": 0})
    database.close()


def test_logs_of_older_llms(logs: Path) -> None:
    old_log(logs)
    [one, alone] = read_file(logs)
    assert one.title == "The title"
    assert pairs(one) == [("first", "one"), ("a file\nsecond", "two")]
    assert [turn.system for turn in one.get_branch()] == ["be", "rules"]
    assert one.created_at == datetime(2023, 7, 11, 22, 24, 37, 308000, UTC)
    assert one.turns[0].finished_at == one.created_at + timedelta(milliseconds=1500)
    assert pairs(alone) == [("alone", "three")]


def test_an_old_conversation_that_a_newer_llm_went_on_with(logs: Path) -> None:
    old_log(logs)
    talk = Parrot().conversation()
    talk.id = "01h53zma5txeby33t1kbe3xk8q"
    logged(logs, talk.prompt("third"))
    conversations = {conversation.title: pairs(conversation) for conversation in read_file(logs)}
    assert sum(map(len, conversations.values())) == 4
    [whole] = [said for said in conversations.values() if len(said) > 1]
    assert [prompt for prompt, _ in whole] == ["first", "a file\nsecond", "third"]


def test_the_first_llms_kept_one_table(logs: Path) -> None:
    with sqlite3.connect(logs) as database:
        database.executescript("""
            create table logs (id integer primary key, model text, prompt text, system text, prompt_json text,
                options_json text, response text, response_json text, reply_to_id integer, chat_id integer,
                duration_ms integer, datetime_utc text);
            insert into logs (id, model, prompt, response, chat_id, datetime_utc) values
                (1, 'gpt', 'a', 'b', null, '2023-06-01T00:00:00'), (2, 'gpt', 'c', 'd', 1, '2023-06-01T00:01:00'),
                (3, 'gpt', 'e', 'f', null, '2023-06-02T00:00:00');
            """)
    assert [pairs(conversation) for conversation in read_file(logs)] == [[("a", "b"), ("c", "d")], [("e", "f")]]


def test_a_history_that_the_model_was_given(logs: Path) -> None:
    from llm.parts import assistant, system, user

    logged(logs, Parrot().prompt(messages=[system("s"), user("a"), assistant("b"), user("c")]))
    [conversation] = read_file(logs)
    assert [prompt for prompt, _ in pairs(conversation)] == ["a", "c"]
    assert conversation.turns[-1].system == "s"


SAID = [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}]


def written(path: Path, text: str) -> Sequence[ConversationRecord]:
    path.write_text(text, "utf-8")
    return list(read_file(path))


def test_messages_as_openai_has_them(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    parts = [
        {"role": "user", "content": [{"type": "text", "text": "p"}, {"type": "image_url", "image_url": {"url": "u"}}]}
    ]
    for text in (json.dumps(SAID), json.dumps({"messages": SAID}), json.dumps([{"messages": SAID}])):
        [one] = written(file, text)
        assert pairs(one) == [("p", "a")]
        assert (one.turns[0].system, one.origin.split(":")[0], one.title) == ("s", "openai", "p")
        assert written(file, text)[0].id == one.id
    several = written(file, "\n".join(json.dumps({"messages": said}) for said in (SAID, SAID, parts)))
    assert [pairs(one) for one in several] == [[("p", "a")], [("p", "a")], [("p\n\n[attached: image_url]", "")]]
    assert len({one.id for one in several}) == 3


def test_chatgpts_tree_keeps_its_branches(tmp_path: Path) -> None:
    def node(
        identity: str, parent: str | None, children: list[str], role: str | None, text: str = ""
    ) -> dict[str, Any]:
        message = role and {
            "author": {"role": role},
            "content": {"content_type": "text", "parts": [text]},
            "create_time": 1_700_000_000.5 + ord(identity),
            "metadata": {"model_slug": "gpt-4o"},
        }
        return {"id": identity, "message": message, "parent": parent, "children": children}

    nodes = [
        node("r", None, ["a"], None),
        node("a", "r", ["b", "c"], "user", "question"),
        node("b", "a", ["d"], "assistant", "first try"),
        node("c", "a", [], "assistant", "second try"),
        node("d", "b", ["e"], "user", "more"),
        node("e", "d", [], "assistant", "all"),
    ]
    exported = {"title": "T", "create_time": 1_700_000_000, "mapping": {n["id"]: n for n in nodes}, "current_node": "c"}
    [one] = written(tmp_path / "conversations.json", json.dumps([exported]))
    assert (one.title, one.origin.split(":")[0]) == ("T", "chatgpt")
    assert pairs(one) == [("question", "second try")]
    assert sorted((turn.prompt, turn.text) for turn in one.turns) == [
        ("more", "all"),
        ("question", "first try"),
        ("question", "second try"),
    ]
    [last] = [turn for turn in one.turns if turn.prompt == "more"]
    assert [turn.text for turn in one.get_branch(last.id)] == ["first try", "all"]


NO_TRANSCRIPTS = (
    *(b"", b"   ", b"once upon", b"{", b"[]", b"{}", b"3", b"[3]", b'{"messages": 3}', b'{"messages": []}'),
    *(b'[{"role": "user"}, 3]', b'[{"role": "system", "content": "s"}]', b'[{"role": "user", "content": 3}]'),
    *(b'{"mapping": {}}', b'{"mapping": {"a": 3}}', b'{"format": "phichat"}', b"[" * 100_000),
    *(b"\xff\xfe", b"SQLite format 3\0", b"SQLite format 3\0" + b"x" * 5000),
)


@pytest.mark.parametrize("content", NO_TRANSCRIPTS)
def test_what_is_no_transcript_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x"
    file.write_bytes(content)
    with pytest.raises(TranscriptFileError):
        list(read_file(file))


KEYS = (
    *(
        "messages",
        "role",
        "content",
        "mapping",
        "message",
        "author",
        "parent",
        "children",
        "parts",
        "text",
        "tool_calls",
    ),
    *(
        "format",
        "version",
        "conversations",
        "id",
        "title",
        "created_at",
        "updated_at",
        "turns",
        "head",
        "prompt",
        "a",
        "b",
    ),
    *("create_time", "current_node", "function", "content_type", "metadata", "thoughts", "model", "conversation_id"),
)
scalars = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
    st.sampled_from(("user", "assistant", "system", "tool", "phichat", "a", "b", "thoughts", 1, 1e300, -1e300)),
)
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)),
    max_leaves=20,
)
MORE = {key: documents for key in KEYS if key not in ("role", "mapping")}
messages = st.fixed_dictionaries({"role": scalars}, optional=MORE)
nodes = st.fixed_dictionaries(
    {"message": st.one_of(documents, messages)}, optional={"parent": scalars, "children": documents}
)
likely = st.one_of(
    documents,
    st.lists(messages, max_size=3),
    st.fixed_dictionaries({"mapping": st.dictionaries(st.sampled_from("ab"), nodes)}, optional=MORE),
    st.fixed_dictionaries({"format": st.just("phichat"), "version": st.just(1), "conversations": st.lists(documents)}),
)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(likely)
def test_whatever_json_says_is_imported_or_refused(tmp_path: Path, document: object) -> None:
    file = tmp_path / "x.json"
    file.write_text(json.dumps(document))
    with contextlib.suppress(TranscriptFileError):
        list(read_file(file))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_damaged_database_is_imported_or_refused(whole_log: bytes, tmp_path: Path, data: st.DataObject) -> None:
    damaged = bytearray(whole_log)
    for _ in range(data.draw(st.integers(1, 30))):
        damaged[data.draw(st.integers(20, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path / "damaged.db"
    file.write_bytes(damaged[: data.draw(st.integers(20, len(damaged)))] if data.draw(st.booleans()) else damaged)
    with contextlib.suppress(TranscriptFileError):
        list(read_file(file))


@pytest.fixture(scope="module")
def whole_log(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("llm") / "logs.db"
    old_log(path)
    talk = Parrot().conversation()
    logged(path, talk.prompt("one", system="s", fragments=["f"]), talk.prompt("two"))
    return path.read_bytes()


def test_a_database_of_something_else(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "x.db") as database:
        database.execute("create table t (a)")
    with pytest.raises(TranscriptFileError, match="a log of llm"):
        list(read_file(tmp_path / "x.db"))
    with pytest.raises(TranscriptFileError, match="cannot be read"):
        list(read_file(tmp_path / "missing"))
