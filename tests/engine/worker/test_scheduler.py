"""One engine process with several clients."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path

import pytest

from phichat.engine.ipc import protocol
from phichat.engine.ipc.process import WORKER_COMMAND
from phichat.types import FinishReason, Message, Role, SamplingParams
from support.demo_model import embedded_model
from support.tiny_gguf import write_tiny_llama

if sys.platform == "win32":
    pytest.skip("handles are passed on by number", allow_module_level=True)

GREEDY = SamplingParams(temperature=0, max_tokens=24)
QUESTIONS = ("What is the capital of France?", "Count from one to ten.", "Name three colours.", "Who wrote Hamlet?")
BRIEF = {**os.environ, "GOMP_SPINCOUNT": "1000"}
"""As `phichat.engine.ipc.process` starts it: threads that spin for long starve each other on a busy machine."""
FINAL = (
    protocol.ModelLoaded,
    protocol.GenerationFinished,
    protocol.SamplesFinished,
    protocol.TokenCount,
    protocol.ErrorReply,
)


@contextmanager
def engine(path: Path, clients: int, n_ctx: int = 2048, sequences: int = 8) -> Iterator[list[Connection]]:
    """Yield the clients' connections to a process that has the model loaded."""
    pairs = [Pipe() for _ in range(clients)]
    handles = [theirs.fileno() for _, theirs in pairs]
    child = subprocess.Popen([*WORKER_COMMAND, *map(str, handles)], pass_fds=handles, env=BRIEF)
    ours = [mine for mine, _ in pairs]
    for _, theirs in pairs:
        theirs.close()
    try:
        for connection in ours:
            assert isinstance(protocol.receive_reply(connection), protocol.EngineInfo)
        load = protocol.LoadModel(str(path), n_ctx, min(512, n_ctx), sequences, 0, (), "f16", "f16", 2, True, False)
        protocol.send(ours[0], load)
        assert isinstance(answer(ours[0])[-1], protocol.ModelLoaded)
        yield ours
    finally:
        for connection in ours:
            connection.close()
        assert child.wait(60) == 0


def question(text: str, params: SamplingParams = GREEDY) -> protocol.Generate:
    return protocol.Generate((Message(Role.USER, text),), params, 1)


def answer(connection: Connection) -> list[protocol.EngineReply]:
    """Return all replies to a request."""
    replies = [protocol.receive_reply(connection)]
    while not isinstance(replies[-1], FINAL):
        replies.append(protocol.receive_reply(connection))
    return replies


def answers(connections: list[Connection]) -> dict[Connection, list[protocol.EngineReply]]:
    """Return all replies to a request of each client."""
    got: dict[Connection, list[protocol.EngineReply]] = {connection: [] for connection in connections}
    while open_ := [one for one in connections if not (got[one] and isinstance(got[one][-1], FINAL))]:
        for ready in wait(open_, 30):
            assert isinstance(ready, Connection)
            got[ready].append(protocol.receive_reply(ready))
    return got


def text(replies: list[protocol.EngineReply]) -> str:
    return "".join(reply.text for reply in replies if isinstance(reply, protocol.OutputDelta))


def end(replies: list[protocol.EngineReply]) -> protocol.GenerationFinished:
    assert isinstance(replies[-1], protocol.GenerationFinished)
    return replies[-1]


def test_concurrent_clients_get_the_same_answers_as_alone() -> None:
    alone = []
    for asked in QUESTIONS:
        with engine(embedded_model(), 1) as (one,):
            protocol.send(one, question(asked))
            alone.append(text(answer(one)))
    with engine(embedded_model(), len(QUESTIONS)) as clients:
        for client, asked in zip(clients, QUESTIONS, strict=True):
            protocol.send(client, question(asked))
        together = answers(clients)
    assert [text(together[client]) for client in clients] == alone


def test_an_answer_does_not_depend_on_earlier_requests() -> None:
    asked = (QUESTIONS[0], "Tell me about the sea. " * 30, *QUESTIONS[1:], QUESTIONS[0])
    alone = {}
    for one in asked:
        with engine(embedded_model(), 1) as (client,):
            protocol.send(client, question(one))
            alone[one] = text(answer(client))
    with engine(embedded_model(), len(asked)) as clients:
        for one, client in zip(asked, clients, strict=True):
            protocol.send(client, question(one))
            assert text(answer(client)) == alone[one]
            client.close()
            time.sleep(0.1)  # until it is known that nobody goes on with it


def test_more_clients_than_sequences_wait_for_each_other() -> None:
    with engine(embedded_model(), 4, sequences=2) as clients:
        for client, asked in zip(clients, QUESTIONS, strict=True):
            protocol.send(client, question(asked))
        assert all(text(replies) for replies in answers(clients).values())


def test_samples_generated_alongside_an_answer_are_the_same_as_alone() -> None:
    asked = (Message(Role.USER, QUESTIONS[2]),)
    samples = protocol.GenerateN(asked, SamplingParams(max_tokens=12), (1, 2, 3))

    def said(replies: list[protocol.EngineReply]) -> dict[int, str]:
        pieces = [reply for reply in replies if isinstance(reply, protocol.SampleOutput)]
        return {
            number: "".join(
                one.output.text
                for one in pieces
                if one.index == number and isinstance(one.output, protocol.OutputDelta)
            )
            for number in range(3)
        }

    with engine(embedded_model(), 1) as (one,):
        protocol.send(one, samples)
        alone = said(answer(one))
    assert all(alone.values())
    with engine(embedded_model(), 2, sequences=4) as clients:
        protocol.send(clients[0], question(QUESTIONS[0]))
        protocol.send(clients[1], samples)
        together = answers(clients)
    assert said(together[clients[1]]) == alone
    assert text(together[clients[0]])


def test_two_answers_that_exceed_the_context_together_both_finish() -> None:
    long = SamplingParams(temperature=0, max_tokens=150)
    with engine(embedded_model(), 2, n_ctx=256) as clients:
        for client, asked in zip(clients, ("Tell me about the sea.", "Tell me about the moon."), strict=True):
            protocol.send(client, question(asked, long))
        for replies in answers(clients).values():
            assert end(replies).usage.completion_tokens > 100
            assert end(replies).finish_reason in (FinishReason.LENGTH, FinishReason.STOP)


def test_a_client_that_cancels_disconnects_or_does_not_read_delays_no_other(tmp_path: Path) -> None:
    endless = SamplingParams(temperature=5, top_k=0, top_p=1, min_p=0)
    with engine(write_tiny_llama(tmp_path / "t.gguf", context_length=8192), 4, n_ctx=8192) as clients:
        reads, stops, leaves, sleeps = clients
        for client in (stops, leaves, sleeps):
            protocol.send(client, question("word", endless))
        protocol.receive_reply(leaves)
        leaves.close()
        protocol.send(stops, protocol.CancelRequest())
        assert end(answer(stops)).finish_reason is FinishReason.CANCELLED
        for _ in range(3):
            protocol.send(reads, question("word", SamplingParams(max_tokens=20)))
            assert isinstance(answer(reads)[-1], protocol.GenerationFinished)


def test_a_prefix_of_another_conversation_is_reused() -> None:
    shared = (Message(Role.SYSTEM, "You are a helpful assistant who knows a lot about ships and the sea. " * 8),)
    with engine(embedded_model(), 2) as (one, other):
        for client, asked in ((one, "What is a bow?"), (other, "What is a keel?")):
            protocol.send(client, protocol.Generate((*shared, Message(Role.USER, asked)), GREEDY, 1))
            last = end(answer(client))
        assert last.usage.cached_tokens > 100
        protocol.send(one, protocol.Generate((*shared, Message(Role.USER, "What is a bow?")), GREEDY, 1))
        again = end(answer(one))
        assert again.usage.cached_tokens > 100


def test_a_request_before_the_model_is_loaded_fails() -> None:
    mine, theirs = Pipe()
    with subprocess.Popen([*WORKER_COMMAND, str(theirs.fileno())], pass_fds=[theirs.fileno()], env=BRIEF):
        theirs.close()
        protocol.receive_reply(mine)
        protocol.send(mine, question("Hello?"))
        failed = protocol.receive_reply(mine)
        mine.close()
    assert isinstance(failed, protocol.ErrorReply)
    assert "no model" in failed.message
