"""Header of a GGUF file, read without trusting the file.

A header is metadata (key, type, value), then one entry per tensor, then padding; the weights follow. Layout and the
names of the keys: docs/gguf.md of the ggml project. `HeaderReader` bounds the time and memory that reading takes.
"""

from __future__ import annotations

import math
import stat
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from phichat.errors import ModelFileError, ModelNotInstalled
from phichat.gguf import types
from phichat.gguf.reader import HeaderReader, MetadataValue, ReadAt
from phichat.gguf.split import list_split_paths

_CHOOSE_CHAT_MODEL = "Choose a GGUF of a chat model"
_MAX_METADATA_KEYS = 1 << 14
_MAX_TENSORS = 1 << 16
_MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
_MAX_KEY_BYTES = 1 << 10
_MAX_TENSOR_NAME = 64  # GGML_MAX_NAME
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor. shape: weights, the contiguous dimension first. ggml_type: a key of `GGML_TYPES`.

    offset: bytes from the start of the tensor data of its file. size_bytes: without padding.
    """

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    offset: int
    size_bytes: int


@dataclass(slots=True)
class _KeyProperty(Generic[_Value]):
    """A property of GgufHeader: what `read` returns for a metadata key."""

    read: Callable[[GgufHeader, str], _Value]
    key: str

    def __get__(self, header: GgufHeader, owner: object = None) -> _Value:
        return self.read(header, self.key)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """A header. Offsets and sizes in bytes.

    metadata: numbers, strings and short arrays, without what is long. array_lengths: elements of every array.
    A split model has the tensors of all its parts and the sum of their file sizes.
    """

    version: int
    metadata: Mapping[str, MetadataValue]
    array_lengths: Mapping[str, int]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    alignment: int
    file_size: int

    def get_str(self, key: str) -> str:
        """Return a metadata string, "" without one."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    def get_int(self, key: str, default: int = 0) -> int:
        """Return a metadata number of at least 0, the largest of an array; `{arch}` stands for the architecture."""
        return max(self.get_ints(key), default=default)

    def get_ints(self, key: str) -> tuple[int, ...]:
        """Return a metadata number or array as numbers of at least 0; empty without one."""
        value = self.metadata.get(key.replace("{arch}", self.architecture))
        values = value if isinstance(value, tuple) else (value,)
        return tuple(max(0, item) for item in values if isinstance(item, int))

    architecture = _KeyProperty(get_str, "general.architecture")
    name = _KeyProperty(get_str, "general.name")
    chat_template = _KeyProperty(get_str, "tokenizer.chat_template")
    # Layers, tokens of context the model was trained for, width of the embedding and of the widest feed-forward
    # network, attention heads of the layer with most, experts.
    block_count = _KeyProperty(get_int, "{arch}.block_count")
    context_length = _KeyProperty(get_int, "{arch}.context_length")
    embedding_length = _KeyProperty(get_int, "{arch}.embedding_length")
    feed_forward_length = _KeyProperty(get_int, "{arch}.feed_forward_length")
    head_count = _KeyProperty(get_int, "{arch}.attention.head_count")
    expert_count = _KeyProperty(get_int, "{arch}.expert_count")
    expert_used_count = _KeyProperty(get_int, "{arch}.expert_used_count")

    @property
    def quantization(self) -> str:
        """Quantization such as Q4_K_M; without general.file_type the type that most bytes of the tensors have."""
        if known := types.FILE_TYPES.get(self.get_int("general.file_type", -1)):
            return known
        sizes = Counter[int]()
        for tensor in self.tensors:
            sizes[tensor.ggml_type] += tensor.size_bytes
        return types.GGML_TYPES[sizes.most_common(1)[0][0]].name if sizes else ""

    @property
    def head_count_kv(self) -> tuple[int, ...]:
        """Key-value heads of each layer; 0 where a layer has no attention."""
        counts = self.get_ints("{arch}.attention.head_count_kv") or self.get_ints("{arch}.attention.head_count")
        if len(counts) == 1:
            return counts * self.block_count
        return (counts + (0,) * self.block_count)[: self.block_count]

    @property
    def key_length(self) -> int:
        """Width of a key of one head."""
        return self.get_int("{arch}.attention.key_length", self.embedding_length // max(1, self.head_count))

    @property
    def value_length(self) -> int:
        """Width of a value of one head."""
        return self.get_int("{arch}.attention.value_length", self.embedding_length // max(1, self.head_count))

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary."""
        return self.array_lengths.get("tokenizer.ggml.tokens", 0) or self.get_int("{arch}.vocab_size")


def read_header(path: Path) -> GgufHeader:
    """Read the header of one file, which of a split model is one part.

    Raises ModelNotInstalled when there is no such file, ModelFileError when it is not a whole, readable GGUF.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ModelFileError(f"{path} is a directory, not a GGUF file", "Give the path of the .gguf file in it")
        if not stat.S_ISREG(mode):
            raise ModelFileError(f"{path} isn't a regular file", _CHOOSE_CHAT_MODEL)
        with path.open("rb") as file:

            def read_at(offset: int, length: int) -> bytes:
                file.seek(offset)
                return file.read(length)

            return read_header_from(read_at, file.seek(0, 2), str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotInstalled(f"{path} doesn't exist", "Check the path") from None
    except PermissionError:
        raise ModelFileError(f"{path} isn't readable", "Change its permissions") from None
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} can't be read", "Check the disk it is on", detail=str(error)) from None


def read_model_header(path: Path) -> GgufHeader:
    """Read the header of a model, whole or split (`NAME-00001-of-00003.gguf`); any part may be named.

    Raises what `read_header` raises, and ModelFileError naming the first part that is missing.
    """
    parts = list_split_paths(path)
    for part in parts:
        if part != path and not part.exists():
            message = f"The model is split into {len(parts)} parts and {part.name} is missing"
            raise ModelFileError(message, "Download that part too")
    headers = list(map(read_header, parts))
    if (count := max(1, headers[0].get_int("split.count"))) != len(parts):
        problem = f"has {count:,} parts according to its header, but {len(parts):,} according to its name"
        raise ModelFileError(f"{path} {problem}", "Restore the parts' original names")
    return merge_headers(headers)


def merge_headers(headers: Sequence[GgufHeader]) -> GgufHeader:
    """Return the header of a split model: the first one with the tensors and the size of all parts."""
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    return replace(headers[0], tensors=tensors, file_size=sum(header.file_size for header in headers))


def read_header_from(read_at: ReadAt, file_size: int, source_name: str) -> GgufHeader:
    """Read the header of a GGUF of file_size bytes from any source, which errors call source_name.

    Raises ModelFileError; what the source itself raises passes through.
    """
    reader = HeaderReader(read_at, file_size, source_name)
    version = _read_version(reader)
    tensor_count, metadata_count = reader.read_int(), reader.read_int()
    if tensor_count > _MAX_TENSORS or metadata_count > _MAX_METADATA_KEYS:
        raise reader.make_error(f"is damaged: it claims {tensor_count:,} tensors and {metadata_count:,} metadata keys")
    metadata: dict[str, MetadataValue] = {}
    for _ in range(metadata_count):
        key = reader.read_string(_MAX_KEY_BYTES, "a metadata key")
        if key in metadata or key in reader.array_lengths:
            raise reader.make_error(f"is damaged: the metadata key {key!r} appears twice")
        value = reader.read_value(key, reader.read_int("I"))
        if value is not None:
            metadata[key] = value
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise reader.make_error(f"is damaged: its alignment is {alignment!r}, which isn't a power of two")
    tensors = tuple(_read_tensor_info(reader) for _ in range(tensor_count))
    data_offset = -(-reader.position // alignment) * alignment
    header = GgufHeader(version, metadata, reader.array_lengths, tensors, data_offset, alignment, file_size)
    if header.block_count > _MAX_LAYERS:
        raise reader.make_error(f"is damaged: it claims {header.block_count:,} layers")
    end = max((data_offset + tensor.offset + tensor.size_bytes for tensor in tensors), default=0)
    if end > file_size:
        raise reader.make_error(f"ends at {file_size:,} bytes but its tensors need {end:,}: the download was cut off")
    return header


def _read_version(reader: HeaderReader) -> int:
    """Check magic and version, and return the version."""
    if reader.file_size == 0:
        raise reader.make_error("is empty")
    preamble = reader.read_at(0, min(9, reader.file_size))
    if preamble[:4] != b"GGUF":
        preview = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in preamble)
        problem = f"is not a GGUF file: it begins with '{preview}' rather than 'GGUF'"
        raise reader.make_error(problem, _CHOOSE_CHAT_MODEL)
    reader.require_bytes(4)
    version = reader.read_int("I")
    if version and version & 0xFFFF == 0:
        raise reader.make_error("is a big-endian GGUF", "Choose a little-endian GGUF of the model")
    if version not in (2, 3):
        next_step = "Choose a newer GGUF of the model" if version < 2 else "Update phichat"
        raise reader.make_error(f"is a GGUF of version {version}, and phichat reads versions 2 and 3", next_step)
    return version


def _read_tensor_info(reader: HeaderReader) -> TensorInfo:
    name = reader.read_string(_MAX_TENSOR_NAME - 1, "a tensor name")
    dimensions = reader.read_int("I")
    if dimensions > 4:
        raise reader.make_error(f"is damaged: the tensor {name!r} has {dimensions:,} dimensions")
    shape = tuple(reader.read_int() for _ in range(dimensions))
    number, offset = reader.read_int("I"), reader.read_int()
    if (kind := types.GGML_TYPES.get(number)) is None:
        next_step = "Choose another quantization of the model, or update phichat"
        raise reader.make_error(f"has the tensor {name!r} in the unknown quantization type {number}", next_step)
    weights = math.prod(shape)
    if weights >= 1 << 63 or offset >= 1 << 63:
        raise reader.make_error(f"is damaged: the tensor {name!r} has an impossible size")
    row_length = shape[0] if shape else 1
    if row_length % kind.block_size:
        problem = f"rows of {row_length:,} weights in {name!r} aren't a multiple of the {kind.name} block size"
        raise reader.make_error(f"is damaged: {problem}")
    return TensorInfo(name, shape, number, offset, weights // kind.block_size * kind.type_size)


def check_usable(header: GgufHeader, path: Path) -> None:
    """Raise ModelFileError when the file is a valid GGUF, but not of a model that can chat.

    An unknown architecture passes: llama.cpp decides when it loads the model.
    """
    arch, kind = header.architecture, header.get_str("general.type")
    is_embedding = arch in types.EMBEDDING_ARCHITECTURES or header.get_int("{arch}.pooling_type") > 0
    is_projector = not types.PROJECTOR_ARCHITECTURES.isdisjoint((kind, arch))
    has_tokens = header.get_str("tokenizer.ggml.model") and header.array_lengths.get("tokenizer.ggml.tokens")
    problems = (
        (kind == "adapter", "is a LoRA adapter, not a model"),
        (kind == "imatrix", "is an importance matrix for quantizing, not a model"),
        (is_projector, "is the image projector of a multimodal model, without the language model"),
        (not arch, "does not name its architecture"),
        (not header.tensors, "holds a vocabulary only, no weights"),
        (is_embedding, f"is an embedding model ({arch}), which can't write text"),
        (arch == "t5", f"is an encoder-decoder model ({arch}), which can't chat"),
        (arch in types.SPEECH_ARCHITECTURES, f"is part of a speech model ({arch}), which can't write text"),
        (arch in types.DRAFT_ARCHITECTURES, f"is a draft model ({arch}), which only works alongside a larger one"),
        (not has_tokens, "has no tokenizer"),
    )
    for applies, problem in problems:
        if applies:
            raise ModelFileError(f"{path} {problem}", _CHOOSE_CHAT_MODEL)
