"""The API over real sockets, on a backend that says what it was told to."""

import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phichat.config.settings import Config
from phichat.engine.scripted_backend import ScriptedBackend, ScriptedReply
from phichat.errors import EngineCrashed, ModelDoesNotFit
from phichat.events import TurnFinished
from phichat.models.local.links import Link, LinkStore
from phichat.paths import Paths
from phichat.server.chat_request import MAX_BODY_BYTES
from phichat.types import Message, Role, SamplingParams
from support.api_server import HELLO, Served, read_all, read_until, request, serving, wait_until
from support.tiny_gguf import write_tiny_llama

SLOW = ScriptedReply(["word "] * 2000, delay_s=0.01)
CRASH = EngineCrashed("The engine crashed", "ask again")


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend([ScriptedReply(["Hel", "lo"], reasoning=["hm"])])


@pytest.fixture
def made(backend: ScriptedBackend) -> Callable[[Config, Paths], ScriptedBackend]:
    return lambda config, paths: backend


@pytest.fixture
def served(tmp_path: Path, made: Callable[[Config, Paths], ScriptedBackend]) -> Iterator[Served]:
    with serving(tmp_path, made) as served:
        yield served


def frames(answer: bytes) -> list[Any]:
    """The documents of a stream; DONE as it is."""
    lines = [line.removeprefix(b"data: ") for line in answer.splitlines() if line.startswith(b"data: ")]
    return [line if line == b"[DONE]" else json.loads(line) for line in lines]


def streamed(served: Served, **fields: Any) -> list[Any]:
    with served.connect() as connection:
        connection.sendall(request(served.port, {**HELLO, "stream": True, **fields}))
        return frames(read_until(connection, b"0\r\n\r\n"))


def error_of(answer: tuple[int, dict[str, str], Any]) -> tuple[int, str]:
    """Status and code of an error that is whole."""
    status, _, document = answer
    assert {"message", "type", "param", "code"} <= set(document["error"])
    assert ". " in document["error"]["message"]
    assert "Traceback" not in str(document)
    return status, document["error"]["code"]


def test_a_whole_answer(served: Served) -> None:
    status, headers, document = served.post(HELLO)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert (document["object"], document["model"]) == ("chat.completion", "tiny")
    (choice,) = document["choices"]
    assert choice["message"]["role"] == "assistant"
    assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == ("Hello", "hm")
    assert choice["finish_reason"] == "stop"
    assert document["usage"]["total_tokens"] == document["usage"]["prompt_tokens"] + 3


def test_a_streamed_answer(served: Served) -> None:
    *chunks, done = streamed(served, stream_options={"include_usage": True})
    assert done == b"[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[:-1]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[1:-1] == [{"reasoning_content": "hm"}, {"content": "Hel"}, {"content": "lo"}]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None] * 4 + ["stop"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 3
    assert "usage" not in streamed(served)[-2]


def test_several_replies_to_one_prompt(tmp_path: Path) -> None:
    replies = [ScriptedReply(["one"]), ScriptedReply(["two"]), ScriptedReply(["three"])]
    backend = ScriptedBackend(replies)
    with serving(tmp_path, lambda config, paths: backend) as served:
        document = served.post({**HELLO, "n": 3})[2]
        assert [choice["index"] for choice in document["choices"]] == [0, 1, 2]
        assert [choice["message"]["content"] for choice in document["choices"]] == ["one", "two", "three"]
        assert document["usage"]["completion_tokens"] == 3
        assert document["usage"]["prompt_tokens"] == 1
        backend.prompts.clear()
        *chunks, counted, done = streamed(served, n=3, stream_options={"include_usage": True})
    said = dict.fromkeys(range(3), "")
    ends = []
    for chunk in chunks:
        (choice,) = chunk["choices"]
        said[choice["index"]] += choice["delta"].get("content", "")
        ends += [choice["finish_reason"]] if choice["finish_reason"] else []
    assert said == {0: "one", 1: "two", 2: "three"}
    assert ends == ["stop"] * 3
    assert counted["usage"]["completion_tokens"] == 3
    assert done == b"[DONE]"


def test_the_whole_conversation_is_asked_and_nothing_left_out(served: Served, backend: ScriptedBackend) -> None:
    backend.context = 12
    said = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "one two three"},
        {"role": "assistant", "content": "four"},
        {"role": "user", "content": "five"},
    ]
    assert served.post({"messages": said})[0] == 200
    assert backend.prompts[0] == tuple(Message(Role(one["role"]), one["content"]) for one in said)
    too_long = {"messages": [*said, {"role": "user", "content": "six " * 20}]}
    for asked in (too_long, {**too_long, "stream": True}):
        assert error_of(served.post(asked)) == (400, "context_length_exceeded")
    assert len(backend.prompts) == 1


def test_models_and_health(served: Served) -> None:
    status, _, listed = served.get("/v1/models")
    assert status == 200
    assert "tiny" in [model["id"] for model in listed["data"]]
    assert {model["object"] for model in listed["data"]} == {"model"}
    assert served.get("/v1/models/tiny")[2]["id"] == "tiny"
    served.post(HELLO)
    assert served.get("/v1/models/tiny")[2]["context_length"] == 4096
    assert error_of(served.get("/v1/models/other/one")) == (404, "model_not_found")
    assert served.get("/health")[2] == {"status": "ok"}
    assert served.get("/nothing")[0] == 404
    assert served.get("/v1/chat/completions")[0] == 405


def test_a_client_asks_for_models_and_never_for_files(served: Served, tmp_path: Path) -> None:
    assert served.post({**HELLO, "model": "tiny"})[0] == 200
    assert served.post({**HELLO, "model": "Tiny"})[0] == 200
    for name in ("gpt-4o", str(tmp_path / "tiny.gguf"), "./tiny.gguf", "/etc/passwd", "~", "\0", "\x1b[2J\ud800"):
        answer = served.post({**HELLO, "model": name})
        assert error_of(answer) == (404, "model_not_found")


def test_failures_are_told_without_the_path_of_the_file(tmp_path: Path) -> None:
    where = str(tmp_path / "tiny.gguf")
    broken = EngineCrashed(f"llama.cpp cannot load {where}", "get it again")
    backend = ScriptedBackend(
        [ScriptedReply(error=broken), ScriptedReply(["half an"], error=broken), ScriptedReply(["whole"])]
    )
    with serving(tmp_path, lambda config, paths: backend) as served:
        answer = served.post(HELLO)
        assert error_of(answer) == (500, "engine_error")
        assert answer[2]["error"]["message"] == "llama.cpp cannot load tiny. Get it again."
        *said, failed = streamed(served)
        assert said[1]["choices"][0]["delta"] == {"content": "half an"}
        assert failed["error"]["code"] == "engine_error"
        assert where not in str(failed)
        assert served.post(HELLO)[2]["choices"][0]["message"]["content"] == "whole"


def test_a_model_that_does_not_fit(tmp_path: Path) -> None:
    def none(config: Config, paths: Paths) -> ScriptedBackend:
        raise ModelDoesNotFit("tiny needs more memory than is free", "try a smaller model")

    with serving(tmp_path, none) as served:
        assert error_of(served.post({**HELLO, "stream": True})) == (503, "out_of_memory")


def test_a_model_whose_file_has_gone(served: Served, tmp_path: Path) -> None:
    assert served.post(HELLO)[0] == 200
    (tmp_path / "tiny.gguf").unlink()
    for asked in (HELLO, {**HELLO, "model": "tiny"}):
        answer = served.post(asked)
        assert error_of(answer) == (404, "model_not_found")
        assert str(tmp_path) not in str(answer)
    assert "tiny" not in str(served.get("/v1/models")[2])


def test_a_broken_setting_is_not_shown_to_clients(served: Served, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "links.json").write_text("{")
    answer = served.get("/v1/models")
    assert error_of(answer) == (500, "config_error")
    assert str(tmp_path) not in str(answer)


def test_requests_that_are_too_large_are_refused_while_they_come(served: Served) -> None:
    assert error_of(served.post(b" " * (MAX_BODY_BYTES + 1))) == (413, "request_too_large")
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:{served.port}\r\n".encode()
    with served.connect() as connection:
        connection.sendall(head + b"Content-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n")
        assert read_until(connection, b"\r\n").split()[1] == b"413"
    with served.connect() as connection:
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        for _ in range(9):
            connection.sendall(piece)
        assert read_until(connection, b"\r\n").split()[1] == b"413"
    assert served.post(b" " * 1_000_000 + json.dumps(HELLO).encode())[0] == 200


def test_a_request_that_does_not_arrive(tmp_path: Path, made: Callable[[Config, Paths], ScriptedBackend]) -> None:
    with serving(tmp_path, made, limits={"body_timeout_s": 0.1}) as served, served.connect() as connection:
        connection.sendall(request(served.port, HELLO)[:-3])
        assert read_until(connection, b"\r\n").split()[1] == b"408"


def test_access_is_checked_before_everything(tmp_path: Path, made: Callable[[Config, Paths], ScriptedBackend]) -> None:
    with serving(tmp_path, made, key="sekrit") as served:
        right = {"Authorization": "Bearer sekrit"}
        assert served.post(HELLO, **right)[0] == 200
        status, headers, _ = served.post(HELLO)
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert error_of(served.post(HELLO, Host="evil.example", **right)) == (421, "wrong_host")
        answer = served.post(HELLO, Origin="https://evil.example", **right)
        assert error_of(answer) == (403, "browser")
        assert not [name for name in answer[1] if name.startswith("access-control")]
        preflight = served.ask("OPTIONS", "/v1/chat/completions", b"", Origin="https://evil.example")
        assert preflight[0] == 403
        assert served.get("/health")[0] == 200


def test_a_full_queue_refuses_requests(tmp_path: Path) -> None:
    backend = ScriptedBackend([SLOW])
    with serving(tmp_path, lambda config, paths: backend, waiting=1) as served:
        with served.connect() as first, served.connect() as second, served.connect() as third:
            first.sendall(request(served.port, {**HELLO, "stream": True}))
            read_until(first, b"word")
            for one in (second, third):
                one.sendall(request(served.port, HELLO))
            (refused,), _, _ = select.select([second, third], [], [], 20)
            answer = read_until(refused, b"}}")
            assert answer.startswith(b"HTTP/1.1 429")
            assert b"queue_full" in answer
            assert b"\r\nretry-after: 5\r\n" in answer
            assert select.select([second, third], [], [], 0.1)[0] == []  # one stays in line
        # All have left: there is room again.
        backend.replies = [ScriptedReply(["now"])]
        assert served.post(HELLO)[0] == 200


def test_a_queued_request_times_out(tmp_path: Path) -> None:
    with (
        serving(tmp_path, lambda config, paths: ScriptedBackend([SLOW]), patience_s=0.2) as served,
        served.connect() as first,
    ):
        first.sendall(request(served.port, {**HELLO, "stream": True}))
        read_until(first, b"word")
        assert error_of(served.post(HELLO)) == (429, "queue_full")


@pytest.mark.parametrize("streams", [True, False])
def test_an_answer_ends_when_its_client_leaves(tmp_path: Path, streams: bool) -> None:
    backend = ScriptedBackend([SLOW])
    with serving(tmp_path, lambda config, paths: backend) as served:
        with served.connect() as connection:
            connection.sendall(request(served.port, {**HELLO, "stream": streams}))
            wait_until(lambda: len(backend.prompts) == 1)
        backend.replies = [ScriptedReply(["next"])]
        assert served.post(HELLO)[2]["choices"][0]["message"]["content"] == "next"


@pytest.mark.timing
def test_the_time_is_over(tmp_path: Path) -> None:
    limits = {"time_limit_s": 0.5}
    with serving(tmp_path, lambda config, paths: ScriptedBackend([SLOW]), limits=limits) as served:
        document = served.post(HELLO)[2]
        assert document["choices"][0]["finish_reason"] == "length"
        assert "word " in document["choices"][0]["message"]["content"]
        assert streamed(served)[-2]["choices"][0]["finish_reason"] == "length"
    silent = ScriptedBackend([ScriptedReply(["late"], delay_s=0.8)])
    with serving(tmp_path / "2", lambda config, paths: silent, limits=limits) as served:
        assert error_of(served.post(HELLO)) == (504, "time_limit")


@pytest.mark.timing
def test_a_silent_stream_shows_that_it_lives(tmp_path: Path) -> None:
    backend = ScriptedBackend([ScriptedReply(["late"], delay_s=0.4)])
    limits = {"keepalive_interval_s": 0.01}
    with serving(tmp_path, lambda config, paths: backend, limits=limits) as served, served.connect() as connection:
        connection.sendall(request(served.port, {**HELLO, "stream": True}))
        answer = read_until(connection, b"[DONE]")
    assert b"\n: " in answer
    assert frames(answer)[1]["choices"][0]["delta"] == {"content": "late"}


def test_a_client_that_does_not_read_keeps_nobody_waiting(tmp_path: Path) -> None:
    backend = ScriptedBackend([ScriptedReply(["x" * 1_000_000] * 20), ScriptedReply(["for you"])])
    with serving(tmp_path, lambda config, paths: backend) as served, served.connect() as lazy:
        lazy.sendall(request(served.port, {**HELLO, "stream": True}))
        wait_until(lambda: len(backend.prompts) == 1)
        assert served.post(HELLO)[2]["choices"][0]["message"]["content"] == "for you"
        assert sum(len(line) for line in read_until(lazy, b"[DONE]").split(b'"x')) > 20_000_000


def test_running_answers_are_told_the_end(tmp_path: Path) -> None:
    ends: list[bytes] = []
    with serving(tmp_path, lambda config, paths: ScriptedBackend([SLOW])) as served:
        streaming, waiting = served.connect(), served.connect()
        streaming.sendall(request(served.port, {**HELLO, "stream": True}))
        read_until(streaming, b"word")
        waiting.sendall(request(served.port, HELLO))
        threads = [
            threading.Thread(target=lambda one=one: ends.append(read_all(one)))  # type: ignore[misc]
            for one in (streaming, waiting)
        ]
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join(10)
    assert len(ends) == 2
    assert all(b"phichat serve was stopped" in end for end in ends)
    assert b"HTTP/1.1 503" in b"".join(ends)
    for one in (streaming, waiting):
        one.close()


def test_twenty_clients_at_once_of_whom_five_leave(tmp_path: Path) -> None:
    backend = ScriptedBackend([ScriptedReply(["word "] * 20, delay_s=0.002)])
    before = threading.active_count()
    with serving(tmp_path, lambda config, paths: backend) as served:
        running = threading.active_count()
        done: list[int] = []

        def client(number: int) -> None:
            with served.connect() as connection:
                connection.sendall(request(served.port, {**HELLO, "stream": number % 2 == 0}))
                if number % 4 == 3:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    return
                read_until(connection, b"[DONE]" if number % 2 == 0 else b'"total_tokens"')
            done.append(number)

        clients = [threading.Thread(target=client, args=(number,)) for number in range(20)]
        for one in clients:
            one.start()
        for one in clients:
            one.join(30)
        assert len(done) == 15
        assert served.post(HELLO)[0] == 200
        # asyncio keeps some threads for short work; one for each answer would be 16 more.
        wait_until(lambda: sum(thread.name == "answer" for thread in threading.enumerate()) == 0)
        assert threading.active_count() - running < 16
    wait_until(lambda: threading.active_count() <= before)


def test_one_model_makes_room_for_the_other(tmp_path: Path) -> None:
    made: list[ScriptedBackend] = []

    def backend_for(config: Config, paths: Paths) -> ScriptedBackend:
        made.append(ScriptedBackend([ScriptedReply([Path(config.model or "").stem])]))
        return made[-1]

    other = write_tiny_llama(tmp_path / "other.gguf")
    paths = Paths(tmp_path / "config", tmp_path / "data", tmp_path / "cache", tmp_path / "hub")
    LinkStore(paths.links_file).add_link(Link("other", other, ()))
    with serving(tmp_path, backend_for) as served:
        answers = [served.post({**HELLO, "model": name})[2] for name in ("tiny", "tiny", "other", "", "tiny")]
    assert [one["choices"][0]["message"]["content"] for one in answers] == ["tiny", "tiny", "other", "tiny", "tiny"]
    assert [one["model"] for one in answers] == ["tiny", "tiny", "other", "tiny", "tiny"]
    assert len(made) == 3


def test_several_at_once_have_a_backend_each(tmp_path: Path) -> None:
    made: list[ScriptedBackend] = []

    def backend_for(config: Config, paths: Paths) -> ScriptedBackend:
        made.append(ScriptedBackend([SLOW if len(made) < 2 else ScriptedReply(["third"])]))
        return made[-1]

    with serving(tmp_path, backend_for, at_once=2, waiting=0) as served:
        with served.connect() as first, served.connect() as second:
            for one in (first, second):
                one.sendall(request(served.port, {**HELLO, "stream": True}))
                read_until(one, b"word")
            assert error_of(served.post(HELLO)) == (429, "queue_full")
        for backend in made:
            backend.replies = [ScriptedReply(["again"])]
        wait_until(lambda: served.post(HELLO)[0] == 200)
        assert served.post(HELLO)[2]["choices"][0]["message"]["content"] == "again"
    assert len(made) == 2


def test_the_limits_of_this_server_are_everybodys(tmp_path: Path) -> None:
    class Noting(ScriptedBackend):
        params: SamplingParams

        def generate(self, messages: Any, params: SamplingParams, *arguments: Any) -> Any:
            self.params = params
            return super().generate(messages, params, *arguments)

    backend = Noting([ScriptedReply(["x"])])
    config = Config(sampling=SamplingParams(max_tokens=50, temperature=0.3))
    with serving(tmp_path, lambda config, paths: backend, config=config) as served:
        served.post({**HELLO, "max_tokens": 99, "top_k": 7})
    assert backend.params == SamplingParams(max_tokens=50, temperature=0.3, top_k=7)


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"n": 2}])
def test_notices_of_a_turn_are_logged_once_for_the_operator(tmp_path: Path, fields: dict[str, Any]) -> None:
    class NoticingBackend(ScriptedBackend):
        def generate(self, *arguments: Any) -> Any:
            for event in super().generate(*arguments):
                is_last = isinstance(event, TurnFinished)
                yield replace(event, notices=("The prompt was cut.",)) if is_last else event

    backend = NoticingBackend([ScriptedReply(["x"])])
    with serving(tmp_path, lambda config, paths: backend) as served:
        with served.connect() as connection:
            connection.sendall(request(served.port, {**HELLO, **fields}))
            read_until(connection, b"[DONE]" if "stream" in fields else b'"total_tokens"')
        assert served.told.count("The prompt was cut.") == 1


@given(
    fields=st.dictionaries(
        st.sampled_from(["model", "messages", "stream", "stop", "n", "temperature", "x"]),
        st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()) | st.floats(allow_nan=False),
    ),
    content=st.text(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_request_is_answered_or_refused(served: Served, fields: dict[str, Any], content: str) -> None:
    asked = {"messages": [{"role": "user", "content": content}], **fields}
    with served.connect() as connection:
        connection.sendall(request(served.port, asked))
        status = int(read_until(connection, b"\r\n").split()[1])
    assert status == 200 or 400 <= status < 500
