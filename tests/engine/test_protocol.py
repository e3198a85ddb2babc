"""Every message arrives as it was sent, through a real connection."""

from multiprocessing.connection import Pipe

import pytest

from phichat.engine import measuring, protocol
from phichat.messages import FinishReason, GenerationParams, Message, Role, Timings, Usage

MESSAGES = [
    protocol.Load(
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
    measuring.Tune((4, 1, 2), 5, 0.5),
    measuring.Tuned((measuring.Trial(4, (1.0, 2.5), (3.0,)),)),
    protocol.Generate((Message(Role.USER, "é\x00\ud800"),), GenerationParams(stop=("x",)), 7),
    measuring.Weigh(4, 8, (1, 2), 3, 0.5),
    measuring.Weighed(((0.25, 0.5), (1.0,)), (True, False)),
    protocol.Cancel(),
    protocol.Hello("0", "/lib", "info", False, (protocol.DeviceInfo("CPU", "x", "cpu", 2, 1),)),
    protocol.Said("a", "", 1),
    protocol.Generated(FinishReason.STOP, Usage(1, 2, 3), Timings(load_s=1.5)),
    protocol.Failed(protocol.Failure.OVERFLOW, "too long", 9),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_round_trip(message: protocol.Request | protocol.Reply) -> None:
    here, there = Pipe()
    protocol.send(here, message)
    assert protocol.receive(there) == message
