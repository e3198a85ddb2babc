"""The remote backend against a real server that says, and fails, as it is told."""

import json
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from phichat.cancel import CancelToken
from phichat.config.endpoints import Endpoint, EndpointModel
from phichat.engine.remote.backend import RemoteBackend
from phichat.engine.remote.client import list_models
from phichat.errors import (
    ContextOverflow,
    EndpointAuthError,
    EndpointError,
    EndpointUnreachable,
    ModelNotInstalled,
    PhichatError,
)
from phichat.events import ModelReady, ReasoningDelta, TextDelta, TurnFinished
from phichat.types import FinishReason, Message, Role, SamplingParams, Usage
from support.fake_openai_server import KEY, Answer, EndpointServer, chunk, saying, serving, usage

PLAIN = SamplingParams()
HELLO = [Message(Role.SYSTEM, "Be brief."), Message(Role.USER, "Hello?")]


def remote(server: EndpointServer, model: str = "tiny", given: Sequence[str] = (), **more: Any) -> RemoteBackend:
    endpoint = Endpoint("lab", more.pop("base_url", server.url), **{"timeout": 5.0, **more})
    return RemoteBackend(
        EndpointModel(endpoint, model), KEY if endpoint.api_key_env else "", given, retry_delay_s=0.001
    )


def load(backend: RemoteBackend) -> ModelReady:
    (ready,) = backend.load(CancelToken())
    assert isinstance(ready, ModelReady)
    return ready


def ask(server: EndpointServer, params: SamplingParams = PLAIN, given: Sequence[str] = (), **more: Any) -> list[Any]:
    backend = remote(server, given=given, **more)
    load(backend)
    events = list(backend.generate(HELLO, params, CancelToken()))
    backend.close()
    return events


def failing(server: EndpointServer, **more: Any) -> tuple[TurnFinished, PhichatError]:
    backend = remote(server, **more)
    seen: list[Any] = []
    with pytest.raises(PhichatError) as raised:
        seen.extend(backend.load(CancelToken()))
        for event in backend.generate(HELLO, SamplingParams(), CancelToken()):
            seen.append(event)
    backend.close()
    finished = [event for event in seen if isinstance(event, TurnFinished)]
    assert len(finished) == 1
    assert finished[0].finish_reason is FinishReason.ERROR
    return finished[0], raised.value


def test_an_answer_streams_and_counts() -> None:
    with serving() as server:
        *pieces, last = ask(server)
    assert [event.text for event in pieces] == ["Hello", ", ", "you."]
    assert (last.text, last.finish_reason, last.usage) == ("Hello, you.", FinishReason.STOP, Usage(9, 0, 3))
    assert last.timings.first_token_s > 0
    sent = server.asked[0]
    assert sent["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello?"},
    ]
    assert sent["stream_options"] == {"include_usage": True}
    assert not {"temperature", "top_p", "top_k", "min_p", "seed", "max_tokens"} & set(sent)


def test_what_the_user_has_set_is_sent() -> None:
    params = SamplingParams(temperature=0.8, top_k=20, repeat_penalty=1.1, seed=7, max_tokens=5, stop=("\n",))
    with serving() as server:
        ask(server, params, given=("temperature",))
    sent = server.asked[0]
    assert (sent["temperature"], sent["top_k"], sent["seed"], sent["max_tokens"], sent["stop"]) == (
        0.8,
        20,
        7,
        5,
        ["\n"],
    )
    assert sent["repeat_penalty"] == sent["repetition_penalty"] == 1.1
    assert "top_p" not in sent


def test_options_that_have_no_effect_are_told_once() -> None:
    with serving() as server:
        backend = remote(server, given=("top_k", "threads", "temperature"))
        ready = load(backend)
        assert list(backend.load(CancelToken())) == []
        backend.close()
        server.models = [{"id": "tiny", "owned_by": "vllm"}]
        known = load(remote(server, given=("top_k",)))
    assert (ready.model.name, ready.model.sha256, ready.model.architecture) == ("lab/tiny", "", "")
    assert len(ready.notices) == 2
    assert "threads" in ready.notices[0]
    assert "top_k" in ready.notices[1]
    assert "temperature" not in " ".join(ready.notices)
    assert known.notices == ()


def test_an_option_that_the_server_refuses_is_left_out_and_told() -> None:
    refusal = {"error": {"message": f"Unrecognized request argument supplied: top_k ({KEY})"}}
    with serving(Answer(status=400, body=refusal), saying("Hi")) as server:
        backend = remote(server, api_key_env="LAB_KEY")
        load(backend)
        first, second = (list(backend.generate(HELLO, SamplingParams(top_k=5), CancelToken()))[-1] for _ in range(2))
        backend.close()
    assert first.text == second.text == "Hi"
    assert len(first.notices) == 1
    assert "top_k" in first.notices[0]
    assert KEY not in first.notices[0]
    assert second.notices == ()
    assert ["top_k" in sent for sent in server.asked] == [True, False, False]


def test_max_tokens_by_its_newer_name() -> None:
    text = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    with serving(Answer(status=400, body={"error": {"message": text}}), saying("Hi")) as server:
        last = ask(server, SamplingParams(max_tokens=7))[-1]
    assert (last.text, last.notices) == ("Hi", ())
    assert server.asked[1]["max_completion_tokens"] == 7
    assert "max_tokens" not in server.asked[1]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "tags"])
def test_reasoning_in_each_of_its_places(field: str) -> None:
    if field == "tags":
        pieces = [chunk(content=piece) for piece in ("<th", "ink>Hm", "m.</thi", "nk>", "\n\nFour.")]
    else:
        pieces = [chunk(**{field: "Hm"}), chunk(**{field: "m."}), chunk(content="Four.")]
    with serving(Answer((*pieces, chunk("stop")))) as server:
        events = ask(server)
    assert "".join(event.text for event in events if isinstance(event, ReasoningDelta)) == "Hmm."
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "Four."
    assert (events[-1].reasoning, events[-1].text) == ("Hmm.", "Four.")


def test_no_usage_counts_as_none() -> None:
    with serving(Answer((chunk(content="Hi"), chunk("stop")))) as server:
        assert ask(server)[-1].usage == Usage()


def test_a_limit_of_the_server_is_told() -> None:
    with serving(Answer((chunk(content="Hi"), chunk("length")))) as server:
        own, asked_for = ask(server)[-1], ask(server, SamplingParams(max_tokens=1))[-1]
    assert own.finish_reason is asked_for.finish_reason is FinishReason.LENGTH
    assert "its token limit" in own.notices[0]
    assert asked_for.notices == ()


def test_a_server_that_does_not_stream() -> None:
    body = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 2}}
    with serving(Answer(body=body)) as server:
        last = ask(server)[-1]
    assert (last.text, last.usage.prompt_tokens) == ("Hi", 2)


def test_every_kind_of_line_end_and_comments() -> None:
    stream = b": hello\r\rdata: " + json.dumps(chunk(content="a\u2028b")).encode() + b"\r\n\r\nevent: x\ndata:"
    stream += json.dumps(chunk("stop")).encode() + b"\n\ndata: [DONE]\r\r"
    with serving(Answer([stream[at : at + 1] for at in range(len(stream))], then="close")) as server:
        assert ask(server)[-1].text == "a\u2028b"


NOW = {"Retry-After": "0"}
HELD = chunk(content="Once upon")


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (Answer((HELD,), then="reset"), EndpointUnreachable, "cut its answer short"),
        (Answer((HELD,), then="close"), EndpointUnreachable, "cut its answer short"),
        (Answer((HELD, b"data: {oh no\n\n")), EndpointError, "not a JSON object"),
        (Answer((HELD, b'data: ["x"]\n\n')), EndpointError, "not a JSON object"),
        (Answer((HELD, b"data: " + b"x" * (5 << 20))), EndpointError, "more than any answer needs"),
        (Answer((HELD, {"error": {"message": "CUDA\nerror"}})), EndpointError, "(CUDA error)"),
        (Answer((HELD, chunk("content_filter"))), EndpointError, "content filter"),
        (Answer((HELD, chunk("tool_calls"))), EndpointError, "called a tool"),
        (Answer((HELD,), then="stall"), EndpointUnreachable, "sent nothing for 1 s"),
        (Answer((HELD,), then="drip"), EndpointUnreachable, "sent nothing for 1 s"),
    ],
)
def test_what_was_said_before_a_fault_is_kept(answer: Answer, kind: type[PhichatError], words: str) -> None:
    with serving(answer) as server:
        finished, error = failing(server, timeout=1.0)
    assert finished.text == "Once upon"
    assert type(error) is kind
    assert words in str(error)
    assert len(server.asked) == 1, "never again after the first token"


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (Answer(status=429, body={"error": {"message": "slow down"}}, headers=NOW), EndpointError, "slow down"),
        (Answer(status=503, body=b"<html>busy", kind="text/html", headers=NOW), EndpointError, "status 503"),
        (Answer(status=404, body={"error": {"message": "Model tiny not found"}}), ModelNotInstalled, "no model tiny"),
        (Answer(status=404, body={"detail": "Not Found"}), EndpointError, "Fix base_url"),
        (Answer(status=200, body=b"<html>Log in", kind="text/html"), EndpointError, "web page"),
        (Answer(status=307, headers={"Location": "http://127.0.0.1:9/"}), EndpointError, "another address"),
        (Answer(status=200, body=b"hello", kind="application/json"), EndpointError, "not a JSON object"),
        (Answer(), EndpointError, "other than a chat completion"),
        (Answer((b"\x00\xff\n\nwhat?\n",), then="close"), EndpointError, "other than a chat completion"),
        (Answer(status=400, body={"detail": [{"loc": ["body", "n"], "msg": "too odd"}]}), EndpointError, "n: too odd"),
        (Answer(then="reset-before"), EndpointUnreachable, "closed the connection"),
        (Answer(then="stall-before"), EndpointUnreachable, "sent nothing for 1 s"),
        (Answer(status=500, body=b"x" * 3_000_000, headers=NOW), EndpointError, "status 500"),
    ],
)  # fmt: skip
def test_a_fault_before_the_answer(answer: Answer, kind: type[PhichatError], words: str) -> None:
    with serving(answer) as server:
        finished, error = failing(server, timeout=1.0)
    assert finished.text == ""
    assert type(error) is kind
    assert words in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("body", "numbers"),
    [
        (
            {"error": {"message": "This model's maximum context length is 4096 tokens. However, you requested 5010 "
             "tokens (5000 in the messages, 10 in the completion).", "code": "context_length_exceeded"}},
            (5000, 4096),
        ),
        (
            {"error": {"message": "request (5000 tokens) exceeds the available context size (4096 tokens)",
             "type": "exceed_context_size_error", "n_prompt_tokens": 5000, "n_ctx": 4096}},
            (5000, 4096),
        ),
        (
            {"message": "This model's maximum context length is 4,096 tokens. However, your messages resulted in 5,000 "
             "tokens."},
            (5000, 4096),
        ),
        ({"error": "Prompt is too long."}, (0, 0)),
    ],
)  # fmt: skip
def test_a_prompt_that_the_server_finds_too_long(body: dict[str, Any], numbers: tuple[int, int]) -> None:
    with serving(Answer(status=400, body=body)) as server:
        _, error = failing(server)
    assert isinstance(error, ContextOverflow)
    assert (error.prompt_tokens, error.n_ctx) == numbers
    assert "--ctx-size" not in str(error)


def test_busy_lost_and_then_well() -> None:
    busy = Answer(status=429, headers={"Retry-After": "0"}, body={})
    with serving(busy, Answer(then="reset-before"), saying("Well.")) as server:
        assert ask(server)[-1].text == "Well."
    assert len(server.asked) == 3


def test_a_stream_that_ends_with_nothing_is_asked_why() -> None:
    why = {"error": {"message": "maximum context length is 512 tokens", "code": "context_length_exceeded"}}
    with serving(Answer(then="close"), Answer(status=400, body=why)) as server:
        _, error = failing(server)
    assert isinstance(error, ContextOverflow)
    assert [sent["stream"] for sent in server.asked] == [True, False]


def test_a_server_that_asks_for_too_much_patience() -> None:
    with serving(Answer(status=429, headers={"Retry-After": "3600"}, body={})) as server:
        _, error = failing(server)
    assert "Ask again in 3,600 s" in str(error)
    assert len(server.asked) == 1


def test_a_reset_behind_the_end_takes_nothing_away() -> None:
    with serving(Answer((chunk(content="All."), chunk("stop"), usage(1, 1)), then="reset")) as server:
        last = ask(server)[-1]
    assert (last.text, last.finish_reason, last.usage.completion_tokens) == ("All.", FinishReason.STOP, 1)


@pytest.mark.timing
@pytest.mark.parametrize("answer", [Answer(then="stall-before"), Answer((HELD,), then="stall")])
def test_cancel_leaves_a_silent_server_at_once(answer: Answer) -> None:
    with serving(answer) as server:
        backend, cancel = remote(server), CancelToken()
        load(backend)
        threading.Timer(0.3, cancel.set).start()
        began = time.monotonic()
        *_, last = backend.generate(HELLO, SamplingParams(), cancel)
        took = time.monotonic() - began
        assert last.finish_reason is FinishReason.CANCELLED
        assert last.text == ("Once upon" if answer.pieces else "")
        assert took < 3, "it waited for the server"
        assert server.left.wait(3), "the connection stayed open"
        backend.close()


def test_nothing_listens() -> None:
    with serving() as server:
        pass
    with pytest.raises(EndpointUnreachable, match="No response from lab"):
        list(remote(server).load(CancelToken()))


def test_a_server_without_tls() -> None:
    with serving() as server:
        backend = remote(server, base_url=server.url.replace("http:", "https:"))
        list(backend.load(CancelToken()))
        with pytest.raises(EndpointUnreachable, match="No secure connection"):
            list(backend.generate(HELLO, SamplingParams(), CancelToken()))


def test_the_key_is_sent_and_never_told() -> None:
    with serving() as server:
        server.key = "another"
        _, error = failing(server, api_key_env="LAB_KEY")
        server.key = KEY
        assert ask(server, api_key_env="LAB_KEY")[-1].text
    assert isinstance(error, EndpointAuthError)
    assert "LAB_KEY" in error.next_step
    assert KEY not in f"{error}{error.detail}{error.__dict__}{remote(server, api_key_env='LAB_KEY')!r}"
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}


def test_nothing_but_what_is_meant_is_sent(monkeypatch: Any) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-server")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-another-server")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Mine: of-another-server")
    with serving() as server:
        ask(server, headers={"X-Team": "blue", "User-Agent": "mine"})
    assert all("another" not in json.dumps(headers) for headers in server.headers)
    assert all((headers["x-team"], headers["user-agent"]) == ("blue", "mine") for headers in server.headers)
    expected = {"host", "accept", "accept-encoding", "connection", "user-agent", "x-team"}
    assert [set(headers) - expected for headers in server.headers] == [set(), {"content-type", "content-length"}]


def test_no_cookie_is_sent_back() -> None:
    body = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}
    with serving(Answer(body=body, headers={"Set-Cookie": "session=1"})) as server:
        backend = remote(server)
        load(backend)
        for _ in range(2):
            assert list(backend.generate(HELLO, PLAIN, CancelToken()))[-1].text == "Hi"
        backend.close()
    assert not any("cookie" in headers for headers in server.headers)


def test_any_prompt_can_be_sent_as_json() -> None:
    with serving() as server:
        backend = remote(server)
        load(backend)
        prompt = [Message(Role.USER, "naïve 日本 \ud800")]
        assert list(backend.generate(prompt, PLAIN, CancelToken()))[-1].text == "Hello, you."
        backend.close()
    assert server.asked[0]["messages"][0]["content"] == "naïve 日本 ?"


def test_the_forms_of_azure() -> None:
    with serving() as server:
        ask(server, base_url=server.url.removesuffix("/v1"), api_version="2025-01-01", api_key_env="K", timeout=5.0)
        ask(server, base_url=server.url + "/models", api_version="2025-01-01")
    whole, path = (sent["path"] for sent in server.asked)
    assert whole == "/openai/deployments/tiny/chat/completions?api-version=2025-01-01"
    assert path == "/v1/models/chat/completions?api-version=2025-01-01"
    assert server.headers[0]["api-key"] == KEY
    assert "authorization" not in server.headers[0]


@pytest.mark.parametrize(
    ("entry", "n_ctx"),
    [
        ({"id": "tiny", "max_model_len": 4096}, 4096),
        ({"id": "tiny", "context_length": 8192}, 8192),
        ({"id": "tiny", "owned_by": "llamacpp", "meta": {"n_ctx_train": 131072}}, 2048),
        ({"id": "tiny"}, 0),
        ({"id": "other", "max_model_len": 4096}, 0),
        ({"id": "tiny", "max_model_len": "many"}, 0),
    ],
)
def test_the_context_that_the_server_tells_of(entry: dict[str, Any], n_ctx: int) -> None:
    with serving() as server:
        server.models = [entry]
        server.paths["/props"] = {"default_generation_settings": {"n_ctx": 2048}}
        backend = remote(server)
        assert load(backend).model.n_ctx == backend.n_ctx == n_ctx
        long = [Message(Role.USER, "word " * 100_000)]
        assert backend.count_tokens(long, CancelToken()) == max(0, n_ctx - 1), "an estimate never refuses"
        backend.close()


def test_the_servers_counts_make_the_estimate_better() -> None:
    with serving(Answer((chunk(content="Hi"), chunk("stop"), usage(50, 1)))) as server:
        server.models = [{"id": "tiny", "max_model_len": 4096}]
        backend = remote(server)
        load(backend)
        assert backend.count_tokens(HELLO, CancelToken()) != 50
        list(backend.generate(HELLO, SamplingParams(), CancelToken()))
        assert backend.count_tokens(HELLO, CancelToken()) == 50
        backend.close()


def test_the_only_model_of_a_server_needs_no_name() -> None:
    with serving() as server:
        assert load(remote(server, model="")).model.name == "lab/tiny"
        server.models = [{"id": "a"}, {"id": "b"}]
        with pytest.raises(EndpointError, match="2 models: a, b"):
            list(remote(server, model="").load(CancelToken()))
        assert [model.id for model in list_models(Endpoint("lab", server.url), "", CancelToken())] == ["a", "b"]
