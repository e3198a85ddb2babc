"""Every message arrives as it was sent, through a real connection."""

from multiprocessing.connection import Pipe

import pytest

from phichat.engine.ipc import benchmark_messages, protocol
from phichat.types import FinishReason, Message, Role, SamplingParams, Timings, Usage

MESSAGES = [
    protocol.LoadModel(
        "/a b.gguf",
        8192,
        512,
        8,
        3,
        (1.0, 2.0),
        "f16",
        "q8_0",
        4,
        True,
        False,
        prompt_threads=8,
        batch_costs=((2, 1.5),),
    ),
    benchmark_messages.TuneThreads((4, 1, 2), 5, 0.5),
    benchmark_messages.ThreadTuningResult((benchmark_messages.ThreadTrial(4, (1.0, 2.5), (3.0,)),)),
    protocol.Generate((Message(Role.USER, "é\x00\ud800"),), SamplingParams(stop=("x",)), 7),
    benchmark_messages.MeasureBatchCosts(4, 8, (1, 2), 3, 0.5),
    benchmark_messages.BatchCostResult(((0.25, 0.5), (1.0,)), (True, False)),
    protocol.CancelRequest(),
    protocol.EngineInfo("0", "/lib", "info", False, (protocol.DeviceInfo("CPU", "x", "cpu", 2, 1),)),
    protocol.OutputDelta("a", "", 1),
    protocol.GenerationFinished(FinishReason.STOP, Usage(1, 2, 3), Timings(load_s=1.5)),
    protocol.ErrorReply(protocol.ErrorCode.OVERFLOW, "too long", 9),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_round_trip(message: protocol.Request | protocol.EngineReply) -> None:
    here, there = Pipe()
    protocol.send(here, message)
    assert protocol.receive(there) == message
