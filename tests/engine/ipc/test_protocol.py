"""Messages between clients and engine processes: each arrives as it was sent, through a real connection."""

import socket
import struct
from multiprocessing.connection import Pipe

import msgspec
import pytest

from phichat.engine.ipc import protocol
from phichat.engine.ipc.frames import SocketConnection
from phichat.engine.ipc.protocol import ControlRequest, EngineReply, ProtocolError, Request
from phichat.types import FinishReason, Message, ModelInfo, Role, SamplingParams, Timings, Usage

LOADED = protocol.LoadedModelInfo(ModelInfo("m", devices=("CUDA0",)), "/m", 2048, 9, "CPU", ("n",), ())
REQUESTS: list[Request] = [
    protocol.LoadModel(
        path="/a \udc80b.gguf",
        n_ctx=8192,
        n_batch=512,
        n_seq_max=8,
        n_gpu_layers=3,
        tensor_split=(1.0, 2.0),
        type_k="f16",
        type_v="q8_0",
        threads=4,
        extra_buffers=True,
        warm_up=False,
        prompt_threads=8,
        batch_costs=((2, 1.5),),
    ),
    protocol.CountTokens((Message(Role.USER, "a"), Message(Role.ASSISTANT, ""))),
    protocol.Generate((Message(Role.USER, "é\x00\ud800😀"),), SamplingParams(stop=("x",)), 7),
    protocol.GenerateN((Message(Role.USER, "é"),), SamplingParams(seed=3), (1, 2**32 - 2)),
    protocol.TuneThreads((4, 1, 2), 5, 0.5),
    protocol.MeasureBatchCosts(4, 8, (1, 2), 3, 0.5),
    protocol.RunBenchmark(512, 128, 3),
    protocol.CancelRequest(),
    protocol.Detach(LOADED, (("/m", (1, 2, 3, 4, 5)),)),
    protocol.Shutdown(force=True),
]
CONTROL_REQUESTS: list[ControlRequest] = [
    protocol.Connect(300.0),
    protocol.GetStatus(),
    protocol.Shutdown(force=False),
]
REPLIES: list[EngineReply] = [
    protocol.EngineInfo("0", "/lib", "info", False, (protocol.DeviceInfo("CPU", "x", "cpu", 2, 1),)),
    protocol.OutputDelta("a", "", 1),
    protocol.GenerationFinished(FinishReason.STOP, Usage(1, 2, 3), Timings(load_s=1.5)),
    protocol.SampleOutput(1, protocol.OutputDelta("", "b", 2)),
    protocol.SampleOutput(0, protocol.GenerationFinished(FinishReason.LENGTH, Usage(), Timings())),
    protocol.ThreadTuningResult((protocol.ThreadTrial(4, (1.0, 2.5), (3.0,)),)),
    protocol.BatchCostResult(((0.25, 0.5), (1.0,)), (True, False)),
    protocol.BenchmarkResult((1.0,), (2.0,), 3e9),
    LOADED,
    protocol.EngineStatus(7, LOADED, 0, 1.0, 299.0),
    protocol.EngineStatus(7, None, 1, 0.0, None),
    protocol.ErrorReply(protocol.ErrorCode.OVERFLOW, "too long", 9),
]


@pytest.mark.parametrize("message", REQUESTS, ids=lambda message: type(message).__name__)
def test_requests_round_trip(message: Request) -> None:
    here, there = Pipe()
    protocol.send(here, message)
    assert protocol.receive_request(there) == message


@pytest.mark.parametrize("message", CONTROL_REQUESTS, ids=lambda message: type(message).__name__)
def test_control_requests_round_trip(message: ControlRequest) -> None:
    here, there = Pipe()
    protocol.send(here, message)
    assert protocol.receive_control_request(there) == message


@pytest.mark.parametrize("message", REPLIES, ids=lambda message: type(message).__name__)
def test_replies_round_trip(message: EngineReply) -> None:
    here, there = Pipe()
    protocol.send(here, message)
    assert protocol.receive_reply(there) == message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"null",
        b"{}",
        b'{"type": "Unknown"}',
        b'{"type": "TokenCount"}',
        b'{"type": "TokenCount", "tokens": "many"}',
        b'{"type": "GetStatus"}',
        b"[" * 100_000,
    ],
)
def test_an_undecodable_reply_is_a_typed_error(content: bytes) -> None:
    here, there = Pipe()
    here.send_bytes(content)
    with pytest.raises(ProtocolError):
        protocol.receive_reply(there)


def test_a_frame_is_bounded() -> None:
    here, there = socket.socketpair()
    with here, there:
        here.sendall(struct.pack("!i", protocol.MAX_MESSAGE_BYTES + 1))
        with pytest.raises(OSError, match="bad message length"):
            protocol.receive_reply(SocketConnection(there))


def test_every_message_has_the_type_of_its_class() -> None:
    assert msgspec.json.decode(msgspec.json.encode(protocol.GetStatus())) == {"type": "GetStatus"}
