"""The remote backend against servers, networks and settings that mean no good: it ends, in bounds, and tells no key."""

import gzip
import threading
import time
import tracemalloc
from typing import Any

import pytest

from phichat.cancel import CancelToken
from phichat.config.endpoints import Endpoint, EndpointModel
from phichat.engine.remote.backend import RemoteBackend
from phichat.errors import EndpointError, EndpointUnreachable, PhichatError
from phichat.events import TextDelta, TurnFinished
from phichat.types import FinishReason, Message, Role, SamplingParams
from support.fake_openai_server import KEY, Answer, EndpointServer, chunk, saying, serving, usage

PLAIN = SamplingParams()
HELLO = [Message(Role.USER, "Hello?")]
HELD = chunk(content="Once upon")


def remote(server: EndpointServer, **more: Any) -> RemoteBackend:
    endpoint = Endpoint("lab", more.pop("base_url", server.url), **{"timeout": 5.0, "model": "tiny", **more})
    return RemoteBackend(EndpointModel(endpoint, endpoint.model), KEY, retry_delay_s=0.001)


def ask(backend: RemoteBackend, prompt: list[Message] = HELLO) -> TurnFinished:
    list(backend.load(CancelToken()))
    *_, last = backend.generate(prompt, PLAIN, CancelToken())
    assert isinstance(last, TurnFinished)
    return last


def failing(backend: RemoteBackend) -> tuple[str, PhichatError]:
    """What was said, and the error."""
    said = ""
    with pytest.raises(PhichatError) as raised:
        list(backend.load(CancelToken()))
        for event in backend.generate(HELLO, PLAIN, CancelToken()):
            said += event.text if isinstance(event, TextDelta) else ""
    backend.close()
    assert KEY not in f"{raised.value!r}{raised.value}{raised.value.detail}"
    return said, raised.value


def test_a_flood_waits_for_who_reads_it() -> None:
    flood = b"".join(b'data: {"choices":[{"delta":{"content":"' + b"x" * 4000 + b'"}}]}\n\n' for _ in range(16))
    with serving(Answer([flood] * 500, then="stall")) as server:
        backend, cancel = remote(server), CancelToken()
        list(backend.load(CancelToken()))
        tracemalloc.start()
        events = backend.generate(HELLO, PLAIN, cancel)
        next(events)
        time.sleep(1.0)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        cancel.set()
        *_, last = events
        assert isinstance(last, TurnFinished)
        assert last.finish_reason is FinishReason.CANCELLED
        assert held < 8 << 20, "as much as was sent lies in memory"
        backend.close()


def test_an_answer_without_end_is_ended_and_kept() -> None:
    large = chunk(content="x" * (1 << 20))
    with serving(Answer([large] * 20)) as server:
        said, error = failing(remote(server))
    assert len(said) == 16 << 20
    assert "more than any answer needs" in str(error)


def test_only_signs_of_life_are_no_answer() -> None:
    with serving(Answer((HELD, *[b": still here\n\n"] * 200), pause_s=0.02)) as server:
        said, error = failing(remote(server, timeout=0.1))
    assert (said, type(error)) == ("Once upon", EndpointUnreachable)
    assert "sent nothing for" in str(error)


def test_signs_of_life_keep_a_slow_answer_alive() -> None:
    with serving(Answer((*[b": still here\n\n"] * 12, HELD, chunk("stop")), pause_s=0.1)) as server:
        assert ask(remote(server, timeout=0.5)).text == "Once upon"


@pytest.mark.timing
def test_a_complete_answer_does_not_wait_for_a_connection_that_stays_open() -> None:
    with serving(Answer((HELD, chunk("stop")), then="stall")) as server:
        began = time.monotonic()
        last = ask(remote(server, timeout=60.0))
        assert time.monotonic() - began < 30
    assert (last.text, last.finish_reason) == ("Once upon", FinishReason.STOP)


def test_what_is_compressed_is_not_taken() -> None:
    bomb = Answer(status=200, body=gzip.compress(b" " * 100_000_000), headers={"Content-Encoding": "gzip"})
    with serving(bomb) as server:
        _, error = failing(remote(server))
        assert "compressed" in str(error)
        assert server.headers[-1]["accept-encoding"] == "identity"


@pytest.mark.parametrize("piece", [chunk("content_filter"), {"error": {"message": "CUDA"}}, b"data: {oh\n\n"])
def test_a_server_that_has_erred_is_left_at_once(piece: Any) -> None:
    with serving(Answer((HELD, piece), then="stall")) as server:
        list((backend := remote(server)).load(CancelToken()))
        events = backend.generate(HELLO, PLAIN, CancelToken())
        with pytest.raises(PhichatError):
            list(events)
        assert server.left.wait(3), "the connection stayed open"


def test_the_key_goes_to_no_other_address() -> None:
    with serving() as thief, serving(Answer(status=302, headers={"Location": thief.url})) as server:
        _, error = failing(remote(server))
        assert "redirects to another address" in str(error)
        assert thief.headers == []


def test_a_prompt_that_a_filter_refuses() -> None:
    # As Azure does.
    body = {"error": {"message": "The response was filtered", "code": "content_filter", "status": 400}}
    with serving(Answer(status=400, body=body)) as server:
        _, error = failing(remote(server))
    assert str(error) == "The content filter of lab rejected the prompt. Rephrase the prompt."


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1"),
        ("HTTP_PROXY", "gopher://me:very-secret@127.0.0.1:1"),
        ("SSL_CERT_FILE", "/no/such/file"),
    ],
)
def test_an_environment_that_cannot_be_used(monkeypatch: Any, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with serving() as server:
        _, error = failing(remote(server, base_url="http://lab.invalid/v1"))
    assert isinstance(error, EndpointUnreachable)
    assert "cannot be reached (" in str(error)
    assert "very-secret" not in str(error)


def test_no_proxy_stands_before_this_machine(monkeypatch: Any) -> None:
    with serving() as proxy, serving() as server:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        assert ask(remote(server)).text == "Hello, you."
        assert ask(remote(server, base_url=server.url.replace("127.0.0.1", "localhost"))).text == "Hello, you."
        assert proxy.headers == []


@pytest.mark.parametrize("address", ["http://-/v1", "http://a..b/v1", "http://xn--/v1", "http://" + "a" * 300 + "/v1"])
def test_an_address_that_none_can_have(address: str) -> None:
    with serving() as server:
        _, error = failing(remote(server, base_url=address))
    assert isinstance(error, EndpointUnreachable)


def test_a_prompt_that_was_cut_without_a_word_is_told() -> None:
    long = [Message(Role.USER, "The sea was calm. " * 5000)]
    with serving(Answer((HELD, chunk("stop"), usage(4096, 2)))) as server:
        backend = remote(server)
        assert "may have truncated the prompt" in ask(backend, long).notices[0]
        assert ask(backend).notices == ()
    with serving(Answer((HELD, chunk("stop"), usage(20_000, 2)))) as server:
        assert ask(remote(server), long).notices == ()


@pytest.mark.timing
def test_cancel_while_it_waits_to_ask_again() -> None:
    with serving(Answer(status=429, headers={"Retry-After": "20"}, body={}), saying("Hi")) as server:
        backend, cancel = remote(server), CancelToken()
        list(backend.load(CancelToken()))
        threading.Timer(0.2, cancel.set).start()
        began = time.monotonic()
        *_, last = backend.generate(HELLO, PLAIN, cancel)
        assert isinstance(last, TurnFinished)
        assert last.finish_reason is FinishReason.CANCELLED
        assert time.monotonic() - began < 5


def test_a_model_list_without_end() -> None:
    with serving() as server:
        server.models = [{"id": "x" * 5_000_000}]
        with pytest.raises(EndpointError, match="more than any answer needs"):
            list(remote(server, model="").load(CancelToken()))
