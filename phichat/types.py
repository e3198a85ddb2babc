"""Plain values that pass between packages: messages, sampling parameters, token counts and timings."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath

from msgspec import Struct


class Role(StrEnum):
    """The author of a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class TextPart(Struct, frozen=True, tag="text"):
    """Text that the user typed or piped in, or that the model wrote."""

    text: str


class FilePart(Struct, frozen=True, tag="file"):
    """A text file attached to a prompt. name: without its folder; size: of the file, in bytes."""

    name: str
    size: int
    text: str


Part = TextPart | FilePart
"""One part of a message; images and tool calls will be further members of this union."""


def render_parts(parts: Sequence[Part]) -> str:
    """Return the text that the model is sent: each file as its name and a fenced block, parts a blank line apart."""
    return "\n\n".join(part.text if isinstance(part, TextPart) else _render_file(part) for part in parts)


def _render_file(part: FilePart) -> str:
    text = part.text.rstrip("\n")
    # The fence has to be longer than any in the file.
    fence = "`" * (max((len(run) for run in re.findall(r"`{3,}", text)), default=2) + 1)
    return f"File: {part.name}\n{fence}{PurePath(part.name).suffix.lstrip('.')}\n{text}\n{fence}"


Content = str | tuple[Part, ...]
"""Content of a message: one text, or parts."""


@dataclass(frozen=True, slots=True, init=False)
class Message:
    """One message of a conversation."""

    role: Role
    parts: tuple[Part, ...]

    def __init__(self, role: Role, content: Content) -> None:
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "parts", (TextPart(content),) if isinstance(content, str) else content)

    @property
    def text(self) -> str:
        """The text that the model is sent."""
        return render_parts(self.parts)

    @property
    def attachments(self) -> tuple[FilePart, ...]:
        """The attached files."""
        return tuple(part for part in self.parts if isinstance(part, FilePart))


class FinishReason(StrEnum):
    """The reason why a reply ended."""

    STOP = "stop"
    """An end-of-generation token or a stop string."""
    LENGTH = "length"
    """max_tokens was reached, or the context is full."""
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters of a reply. The defaults are those of llama.cpp's own command line.

    temperature: 0 or less decodes greedily. max_tokens: None means until the model stops or the context is full.
    seed: None lets the backend draw one, which `TurnFinished.seed` reports.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model that answered, in enough detail to detect later that it has changed.

    sha256: of the file, "" where it was never computed. size: bytes; modified_ns: the file's time of change; both 0 for
    a remote model. template_sha256: of the chat template's text. library: the version of llama-cpp-python. n_ctx:
    tokens. n_gpu_layers: of n_layers repeating layers and the output layer. devices: the GPUs.
    """

    name: str
    architecture: str = ""
    sha256: str = ""
    size: int = 0
    modified_ns: int = 0
    template_sha256: str = ""
    library: str = ""
    n_ctx: int = 0
    n_layers: int = 0
    n_gpu_layers: int = 0
    devices: tuple[str, ...] = ()
    cache_type_k: str = ""
    cache_type_v: str = ""
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one turn. prompt_tokens: of the whole prompt. cached_tokens: of its part in the KV cache."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds of one turn.

    load_s: from the start of the engine process to a loaded model; 0 when it was loaded already.
    prompt_s: rendering, tokenizing and evaluating the prompt.
    first_token_s: from the request to the first sampled token, loading not counted.
    generation_s: from the first sampled token to the last.
    restore_s: looking for a saved KV state and loading it.
    wait_s: until the first token, while the engine served other requests.
    """

    load_s: float = 0.0
    prompt_s: float = 0.0
    first_token_s: float = 0.0
    generation_s: float = 0.0
    tokens_per_second: float = 0.0
    restore_s: float = 0.0
    wait_s: float = 0.0
