"""Messages between a client and an engine process.

Each message is one JSON object; its "type" is the class name. `multiprocessing.connection` frames it (a length before
the bytes; its pickling methods are never used), so that a pipe to a child and a socket to a daemon carry the same.
A request is answered by any number of progress messages and then exactly one final reply. Only `CancelRequest` may be
sent while a request is answered. An engine process may have several connections; each is answered on its own.
"""

import functools
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, cast

import msgspec

from phichat.errors import EngineError
from phichat.storage.fingerprint import FileFingerprints
from phichat.types import FinishReason, Message, ModelInfo, SamplingParams, Timings, Usage

# No `from __future__ import annotations` here: evaluating strings would double the time of the first decoding.

PROTOCOL_VERSION = 2
"""Raise it with every change that an engine process of another version would not understand."""

MAX_MESSAGE_BYTES = 1 << 30


class ProtocolError(EngineError):
    """A message of the other side cannot be decoded, or one of ours is too long to send."""


class Connection(Protocol):
    """The part of `multiprocessing.connection.Connection` that messages need."""

    def send_bytes(self, buf: bytes, /) -> None: ...
    def recv_bytes(self, maxlength: int | None = None, /) -> bytes: ...
    def close(self) -> None: ...


class EngineMessage(msgspec.Struct, frozen=True, tag=True):
    """Base of all messages."""


# Requests from a client


class LoadModel(EngineMessage, frozen=True):
    """Load a model and create its context. Sizes in tokens.

    n_seq_max: conversations that the context holds at once; they share its n_ctx cells.
    threads, prompt_threads: for generation and for prefill; prompt_threads 0 for the same number.
    batch_costs: (batch size, cost relative to one token) for speculative decoding; empty to do without.
    extra_buffers: let llama.cpp repack weights into buffer types of this CPU (AMX and others).
    warm_up: evaluate one batch before ModelLoaded, so that a CPU which cannot run those buffer types
    crashes this process, which may be lost, and not a later request.
    kv_store_path: folder of saved KV caches, "" for none; kv_store_budget: bytes that it may hold; model_identity: of
    the model, the library and the machine, as far as they change the numbers in a KV cache.
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


class CountTokens(EngineMessage, frozen=True):
    messages: tuple[Message, ...]


class Generate(EngineMessage, frozen=True):
    """Generate one reply. conversation_id: "" when its KV cache is not to be saved."""

    messages: tuple[Message, ...]
    params: SamplingParams
    seed: int
    conversation_id: str = ""


class GenerateN(EngineMessage, frozen=True):
    """Generate one reply with each of the seeds. No KV cache of them is saved."""

    messages: tuple[Message, ...]
    params: SamplingParams
    seeds: tuple[int, ...]


class CancelRequest(EngineMessage, frozen=True):
    """End the request that is being answered."""


class RunBenchmark(EngineMessage, frozen=True):
    """Time the prefill of a prompt, then generation, each from an empty context."""

    prompt_tokens: int
    generated_tokens: int
    repeats: int


class TuneThreads(EngineMessage, frozen=True):
    """Time prefill and generation with each of these thread counts in turn, about `seconds` each.
    threads: the others are compared with the first."""

    threads: tuple[int, ...]
    rounds: int
    seconds: float


class MeasureBatchCosts(EngineMessage, frozen=True):
    """Time batches of these sizes in turn, the first one a single token, with logits for each of their tokens, and
    compare those logits with the ones of single tokens."""

    threads: int
    prompt_threads: int
    batch_sizes: tuple[int, ...]
    rounds: int
    seconds: float


# Requests about a daemon


class LoadedModelInfo(EngineMessage, frozen=True):
    """A loaded model, as a client needs to know it: the reply to Connect.
    memory: bytes that the plan gave it. placement: its devices, as text for people."""

    model: ModelInfo
    path: str
    n_ctx_train: int
    memory: int
    placement: str
    notices: tuple[str, ...]
    fingerprints: FileFingerprints


class Detach(EngineMessage, frozen=True):
    """From the process that launched the engine, once the model is loaded: accept clients, and live on without me.
    program_fingerprints: of the files of phichat and llama-cpp-python."""

    loaded_model: LoadedModelInfo
    program_fingerprints: FileFingerprints


class Connect(EngineMessage, frozen=True):
    """Become a client. Answered by LoadProgress until there is a LoadedModelInfo, then by replies to requests.
    keep_alive: seconds without clients after which the engine may exit."""

    keep_alive: float


class GetStatus(EngineMessage, frozen=True):
    """Ask for an EngineStatus."""


class Shutdown(EngineMessage, frozen=True):
    """Exit. Answered by the end of the connection when the engine exits, else by StillRunning.
    force: also with clients; else only without."""

    force: bool


# Replies


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """Entry of ggml's device list, memory in bytes. kind: as in ggml_backend_dev_type ("gpu", "igpu")."""

    name: str
    description: str
    kind: str
    memory_total: int
    memory_free: int


class EngineInfo(EngineMessage, frozen=True):
    """First message of every engine process, sent when the library is loaded.

    library_version: of llama-cpp-python. library_file: path of the shared library.
    system_info: llama.cpp's own line about the instruction sets it was built for.
    """

    library_version: str
    library_file: str
    system_info: str
    offload_supported: bool
    devices: tuple[DeviceInfo, ...]


class LoadProgress(EngineMessage, frozen=True):
    """Fraction of the tensors that is loaded, 0 to 1."""

    fraction: float


class WarmingUp(EngineMessage, frozen=True):
    """Tensors are loaded; the first batch is being evaluated."""


class ModelLoaded(EngineMessage, frozen=True):
    n_ctx: int
    n_ctx_train: int
    template_source: str
    notices: tuple[str, ...]


class RenderingTemplate(EngineMessage, frozen=True):
    """The chat template is being rendered, which may take as long as its author likes."""


class TokenCount(EngineMessage, frozen=True):
    tokens: int


class PrefillProgress(EngineMessage, frozen=True):
    """Tokens of the prompt: evaluated, all, and found in the KV cache."""

    done: int
    total: int
    cached: int


class Heartbeat(EngineMessage, frozen=True):
    """A graph node was computed: the engine is slow, not hung."""


class OutputDelta(EngineMessage, frozen=True):
    """Generated text; either part may be empty. tokens: number of tokens since the last delta."""

    reasoning: str
    text: str
    tokens: int


class GenerationFinished(EngineMessage, frozen=True):
    finish_reason: FinishReason
    usage: Usage
    timings: Timings


class SampleOutput(EngineMessage, frozen=True):
    """Output of one of several replies. index: of its seed."""

    index: int
    output: OutputDelta | GenerationFinished


class SamplesFinished(EngineMessage, frozen=True):
    """All replies of a GenerateN have ended."""


class BenchmarkResult(EngineMessage, frozen=True):
    """Tokens per second of each repeat; memory_bandwidth in bytes per second."""

    prompt_speeds: tuple[float, ...]
    generation_speeds: tuple[float, ...]
    memory_bandwidth: float


class ThreadTrial(msgspec.Struct, frozen=True):
    """Tokens per second with this many threads, one of each round."""

    threads: int
    prompt_speeds: tuple[float, ...]
    generation_speeds: tuple[float, ...]


class ThreadTuningResult(EngineMessage, frozen=True):
    trials: tuple[ThreadTrial, ...]


class BatchCostResult(EngineMessage, frozen=True):
    """seconds: of each batch size, one value per round. is_exact: the logits equal those of single tokens."""

    seconds: tuple[tuple[float, ...], ...]
    is_exact: tuple[bool, ...]


class StillRunning(EngineMessage, frozen=True):
    """Reply to a Shutdown that is refused because the daemon has clients."""


class EngineStatus(EngineMessage, frozen=True):
    """State of a daemon. loaded_model: None while it loads. idle_s: seconds since the last request ended.
    expires_in_s: seconds, None while it has clients."""

    pid: int
    loaded_model: LoadedModelInfo | None
    clients: int
    idle_s: float
    expires_in_s: float | None


class ErrorCode(StrEnum):
    """Cause of a failed request."""

    LOAD = "load"
    MEMORY = "memory"
    TEMPLATE = "template"
    OVERFLOW = "overflow"
    CANCELLED = "cancelled"
    DECODE = "decode"
    LIBRARY = "library"


class ErrorReply(EngineMessage, frozen=True):
    """A request failed. prompt_tokens: size of a prompt that exceeds the context, else 0."""

    code: ErrorCode
    message: str
    prompt_tokens: int = 0


BenchmarkRequest = RunBenchmark | TuneThreads | MeasureBatchCosts
BenchmarkReply = BenchmarkResult | ThreadTuningResult | BatchCostResult
ControlRequest = Connect | GetStatus | Shutdown
Request = LoadModel | CountTokens | Generate | GenerateN | BenchmarkRequest | CancelRequest | Detach | Shutdown
_Result = EngineInfo | ModelLoaded | TokenCount | GenerationFinished | SamplesFinished | BenchmarkReply
FinalReply = _Result | ErrorReply | StillRunning
_Progress = LoadProgress | WarmingUp | RenderingTemplate | PrefillProgress | Heartbeat
EngineReply = FinalReply | _Progress | OutputDelta | SampleOutput | LoadedModelInfo | EngineStatus


def send(connection: Connection, message: EngineMessage) -> int:
    """Send a message and return its size in bytes.
    Raises OSError when the other side has disconnected, and ProtocolError for a message above MAX_MESSAGE_BYTES."""
    try:
        content = msgspec.json.encode(message)
    except UnicodeEncodeError:  # lone surrogates, as in the path of a file whose name is not UTF-8
        content = json.dumps(msgspec.to_builtins(message)).encode()
    if len(content) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"The request has {len(content):,} bytes, which is too long to send", "Shorten the prompt")
    connection.send_bytes(content)
    return len(content)


def receive_request(connection: Connection) -> Request:
    """Wait for the next request of an accepted client. Raises like `receive_reply`."""
    return cast(Request, _receive(connection, Request))


def receive_control_request(connection: Connection) -> ControlRequest:
    """Wait for the first request of a new connection to a daemon. Raises like `receive_reply`."""
    return cast(ControlRequest, _receive(connection, ControlRequest))


def receive_reply(connection: Connection) -> EngineReply:
    """Wait for the next reply. Raises EOFError or OSError when the other side has disconnected, and ProtocolError."""
    return cast(EngineReply, _receive(connection, EngineReply))


_make_decoder = functools.cache(msgspec.json.Decoder)


def _receive(connection: Connection, message_type: Any) -> Any:
    content = connection.recv_bytes(MAX_MESSAGE_BYTES)
    try:
        try:
            return _make_decoder(message_type).decode(content)
        except msgspec.DecodeError:
            return msgspec.convert(json.loads(content), message_type)  # it may hold lone surrogates
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        message = "The engine sent a message that phichat cannot read"
        raise ProtocolError(message, "Ask again", detail=str(error)) from error
