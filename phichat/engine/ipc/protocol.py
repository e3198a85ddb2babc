"""What the supervisor and the engine process say to each other.

Each message is one JSON object, framed by `multiprocessing.connection` (a length before the bytes;
its pickling methods are never used), so the same protocol serves a child and a resident process.
A request is answered by any number of progress messages and then exactly one of `Loaded`,
`Counted`, `Generated`, `Sampled`, a `Measurement` or `Failed`. Only `Cancel` may be sent while a
request is answered.
An engine process may have several connections; each is answered on its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from typing import Any, Protocol

from phichat.storage.fingerprint import FileFingerprints
from phichat.types import FinishReason, Message, ModelInfo, Role, SamplingParams, Timings, Usage


class Connection(Protocol):
    """The part of multiprocessing's connections that is used here."""

    def send_bytes(self, buf: bytes, /) -> None: ...
    def recv_bytes(self) -> bytes: ...
    def close(self) -> None: ...


class BenchmarkRequest:
    """A request of `phichat.engine.ipc.benchmark_messages`."""

    __slots__ = ()


class BenchmarkReply:
    """A reply of `phichat.engine.ipc.benchmark_messages`."""

    __slots__ = ()


# Requests


@dataclass(frozen=True, slots=True)
class LoadModel:
    """Load a model and make its context. Sizes in tokens.

    sequences: how many conversations the context may hold at once; they share its n_ctx cells.
    threads, prompt_threads: to generate with, and to evaluate prompts with, 0 for as many.
    batch_costs: sizes of batches and what they cost in terms of a token, to speculate by; empty to do without.
    extra_buffers: let llama.cpp repack weights into the buffer types of this CPU (AMX and others).
    prove: evaluate one batch before saying Loaded, so that a CPU which cannot run those buffer
    types shows it here, in a process that is there to be lost.
    states: the folder of KV states, "" for none; state_budget: bytes that it may hold; identity: of the
    model, the library and the machine, as far as it changes the numbers in them.
    """

    path: str
    n_ctx: int
    n_batch: int
    n_seq_max: int
    n_gpu_layers: int
    tensor_split: tuple[float, ...]
    type_k: str
    type_v: str
    threads: int
    extra_buffers: bool
    warm_up: bool
    kv_store_path: str = ""
    kv_store_budget: int = 0
    model_identity: str = ""
    prompt_threads: int = 0
    batch_costs: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class CountTokens:
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Generate:
    """owner: the conversation, "" when nothing of it is to be kept."""

    messages: tuple[Message, ...]
    params: SamplingParams
    seed: int
    conversation_id: str = ""


@dataclass(frozen=True, slots=True)
class GenerateN:
    """Reply several times, once with each of the seeds; nothing of it is kept."""

    messages: tuple[Message, ...]
    params: SamplingParams
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """End the request that is being answered."""


# Requests to an engine that stays, through its door


@dataclass(frozen=True, slots=True)
class Detach:
    """From the starter, when the model is loaded: let others in, and go on when the last of them has left.

    library: files that the engine is made of, each with what `stamp` says of it.
    """

    loaded_model: LoadedModelInfo
    program_fingerprints: FileFingerprints


@dataclass(frozen=True, slots=True)
class Connect:
    """Answered by Loading until there is a Card, and from then on by what is asked for.

    keep_alive: seconds without clients after which the engine may leave.
    """

    keep_alive: float


@dataclass(frozen=True, slots=True)
class GetStatus:
    """Answered by a State."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Answered by the end of the connection when the engine has left, else by Staying.

    at_once: whatever it has to do; else only when it has no clients.
    """

    force: bool


# Replies


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """One entry of llama.cpp's device list; memory in bytes. kind is ggml's own word."""

    name: str
    description: str
    kind: str
    memory_total: int
    memory_free: int


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """The library is loaded.

    library_version: of llama-cpp-python. library_file: the shared library's path.
    system_info: llama.cpp's own line about the instruction sets it was built for.
    """

    library_version: str
    library_file: str
    system_info: str
    offload_supported: bool
    devices: tuple[DeviceInfo, ...]


@dataclass(frozen=True, slots=True)
class LoadProgress:
    fraction: float


@dataclass(frozen=True, slots=True)
class WarmingUp:
    """Tensors are loaded; the first batch is being evaluated."""


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    n_ctx: int
    n_ctx_train: int
    template_source: str
    """Where the chat template comes from: the file, or the name of a known one."""
    notices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RenderingTemplate:
    """The chat template is being rendered, which may take as long as its author likes."""


@dataclass(frozen=True, slots=True)
class TokenCount:
    tokens: int


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    done: int
    total: int
    cached: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A graph node was computed: slow, not stuck."""


@dataclass(frozen=True, slots=True)
class OutputDelta:
    """Pieces of the reply; either may be empty. tokens: how many it took since the last."""

    reasoning: str
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class GenerationFinished:
    finish_reason: FinishReason
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class SampleOutput:
    """What is said in one of several replies, and at last what it was. number: the place of its seed."""

    index: int
    output: OutputDelta | GenerationFinished


@dataclass(frozen=True, slots=True)
class SamplesFinished:
    """All have ended."""


@dataclass(frozen=True, slots=True)
class LoadedModelInfo:
    """What a client needs to know of a loaded model.

    memory: bytes that it was planned to take. placement: where it lies, for people. files: of the model, each with
    what `stamp` says of it.
    """

    model: ModelInfo
    path: str
    n_ctx_train: int
    memory: int
    placement: str
    notices: tuple[str, ...]
    fingerprints: FileFingerprints


@dataclass(frozen=True, slots=True)
class StillRunning:
    """It does."""


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """What an engine that stays is at.

    card: None while it loads. clients: that are connected. idle_s: since it had something to do.
    expires_in_s: None while it has clients.
    """

    pid: int
    loaded_model: LoadedModelInfo | None
    clients: int
    idle_s: float
    expires_in_s: float | None


class ErrorCode(StrEnum):
    """What a request failed of."""

    LOAD = "load"
    MEMORY = "memory"
    TEMPLATE = "template"
    OVERFLOW = "overflow"
    CANCELLED = "cancelled"
    DECODE = "decode"
    LIBRARY = "library"


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """tokens: the size of a prompt that did not fit, else 0."""

    code: ErrorCode
    message: str
    prompt_tokens: int = 0


_MESSAGE_TYPES: Mapping[str, Any] = {
    kind.__name__: kind
    for kind in (
        *(LoadModel, CountTokens, Generate, GenerateN, CancelRequest, Detach, Connect, GetStatus, Shutdown),
        *(
            DeviceInfo,
            EngineInfo,
            LoadProgress,
            WarmingUp,
            ModelLoaded,
            RenderingTemplate,
            TokenCount,
            PrefillProgress,
            Heartbeat,
            OutputDelta,
        ),
        *(GenerationFinished, SampleOutput, SamplesFinished, ErrorReply, LoadedModelInfo, StillRunning, EngineStatus),
        *(Message, SamplingParams, Usage, Timings, ModelInfo),
    )
}
_ENUM_FIELDS = {"role": Role, "finish_reason": FinishReason, "code": ErrorCode}

Request = LoadModel | CountTokens | Generate | GenerateN | BenchmarkRequest | CancelRequest | Detach | Shutdown
ControlRequest = Connect | GetStatus | Shutdown
EngineReply = (
    EngineInfo
    | LoadProgress
    | WarmingUp
    | ModelLoaded
    | RenderingTemplate
    | TokenCount
    | PrefillProgress
    | Heartbeat
    | OutputDelta
    | GenerationFinished
    | SampleOutput
    | SamplesFinished
    | BenchmarkReply
    | ErrorReply
    | LoadedModelInfo
    | StillRunning
    | EngineStatus
)


def _to_json(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {"": type(value).__name__} | {f.name: _to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [_to_json(item) for item in value]
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_from_json(item) for item in value)
    if isinstance(value, dict):
        kind = _find_message_type(value.pop(""))
        return kind(**{k: _ENUM_FIELDS[k](v) if k in _ENUM_FIELDS else _from_json(v) for k, v in value.items()})
    return value


def _find_message_type(type_name: str) -> Any:
    if type_name in _MESSAGE_TYPES:
        return _MESSAGE_TYPES[type_name]
    from phichat.engine.ipc import benchmark_messages

    return benchmark_messages.BENCHMARK_MESSAGE_TYPES[type_name]


def send(connection: Connection, message: Request | ControlRequest | EngineReply) -> int:
    """Returns how many bytes the message took. Raises OSError when the other side is gone."""
    content = json.dumps(_to_json(message)).encode()
    connection.send_bytes(content)
    return len(content)


def receive(connection: Connection) -> Any:
    """The next message, waiting for it. Raises EOFError or OSError when the other side is gone."""
    return _from_json(json.loads(connection.recv_bytes()))
