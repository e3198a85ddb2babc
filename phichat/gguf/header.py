"""What a GGUF file says about itself, read without trusting it.

A header is metadata (key, type, value), then one entry a tensor, then padding; the weights follow.
Layout: docs/gguf.md of the ggml project. `gguf_cursor` bounds what reading may cost.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from phichat.errors import ModelFileError, ModelNotInstalled
from phichat.gguf.reader import HeaderReader, MetadataValue, ReadAt
from phichat.gguf.split import list_split_paths
from phichat.gguf.types import (
    DRAFT_ARCHITECTURES,
    EMBEDDING_ARCHITECTURES,
    ENCODER_DECODER_ARCHITECTURES,
    FILE_TYPES,
    GGML_TYPES,
    PROJECTOR_ARCHITECTURES,
    SPEECH_ARCHITECTURES,
)

CHOOSE_CHAT_MODEL = "choose a GGUF of a chat model"

_MAX_METADATA_KEYS = 1 << 14
_MAX_TENSORS = 1 << 16
_MAX_LAYERS = 512  # LLAMA_MAX_LAYERS
_PREAMBLE_BYTES = 9
_MAX_KEY_BYTES = 1 << 10
_MAX_TENSOR_NAME = 64  # GGML_MAX_NAME


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor. shape: weights, the contiguous dimension first. ggml_type: its number, see
    `gguf_types`. offset: bytes from the start of the tensor data of its file. size_bytes: unpadded."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """A header. Offsets and sizes in bytes.

    metadata: numbers, strings and short arrays; what is long is left out, and `array_lengths` has the
    number of elements of every array, kept or not. A split model has the tensors of all its parts
    and the sum of their file sizes. Properties that a file does not state are 0 or "".
    """

    version: int
    metadata: Mapping[str, MetadataValue]
    array_lengths: Mapping[str, int]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    alignment: int
    file_size: int

    def get_str(self, key: str) -> str:
        """A metadata string, "" when there is none under that key."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    def get_int(self, key: str, default: int = 0) -> int:
        """A metadata number as a count, at least 0; of an array the largest; `{arch}` stands for the architecture."""
        numbers = self.get_ints(key)
        return max(numbers) if numbers else default

    def get_ints(self, key: str) -> tuple[int, ...]:
        """A metadata number or array of numbers as counts, empty when there is none."""
        value = self.metadata.get(key.replace("{arch}", self.architecture))
        values = value if isinstance(value, tuple) else (value,)
        return tuple(max(0, item) for item in values if isinstance(item, int))

    @property
    def architecture(self) -> str:
        return self.get_str("general.architecture")

    @property
    def name(self) -> str:
        return self.get_str("general.name")

    @property
    def chat_template(self) -> str:
        return self.get_str("tokenizer.chat_template")

    @property
    def quantization(self) -> str:
        """Such as Q4_K_M; from general.file_type, else the type that most bytes of the tensors have."""
        known = FILE_TYPES.get(self.get_int("general.file_type", -1))
        if known is not None:
            return known
        sizes: dict[int, int] = {}
        for tensor in self.tensors:
            sizes[tensor.ggml_type] = sizes.get(tensor.ggml_type, 0) + tensor.size_bytes
        return GGML_TYPES[max(sizes, key=lambda kind: sizes[kind])].name if sizes else ""

    @property
    def block_count(self) -> int:
        """Repeating layers."""
        return self.get_int("{arch}.block_count")

    @property
    def context_length(self) -> int:
        """Tokens of context the model was trained for."""
        return self.get_int("{arch}.context_length")

    @property
    def embedding_length(self) -> int:
        return self.get_int("{arch}.embedding_length")

    @property
    def feed_forward_length(self) -> int:
        """Width of the feed-forward network, of the widest layer."""
        return self.get_int("{arch}.feed_forward_length")

    @property
    def head_count(self) -> int:
        """Attention heads, of the layer that has most."""
        return self.get_int("{arch}.attention.head_count")

    @property
    def head_count_kv(self) -> tuple[int, ...]:
        """Key-value heads of each repeating layer; 0 where a layer has no attention."""
        head_counts = self.get_ints("{arch}.attention.head_count_kv") or self.get_ints("{arch}.attention.head_count")
        if len(head_counts) == 1:
            return head_counts * self.block_count
        return (head_counts + (0,) * self.block_count)[: self.block_count]

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

    @property
    def sliding_window(self) -> int:
        """Tokens that a sliding-window layer sees; 0 when there are none."""
        return self.get_int("{arch}.attention.sliding_window")

    @property
    def expert_count(self) -> int:
        return self.get_int("{arch}.expert_count")

    @property
    def expert_used_count(self) -> int:
        return self.get_int("{arch}.expert_used_count")

    @property
    def split_count(self) -> int:
        """Files the model is split into; 1 when it is whole."""
        return max(1, self.get_int("split.count"))


def read_header(path: Path) -> GgufHeader:
    """The header of one file, which of a split model is one part.

    Raises ModelNotInstalled when there is no such file, ModelFileError when it is not a whole, readable GGUF.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ModelFileError(f"{path} is a directory, not a GGUF file", "Give the path of the .gguf file in it")
        if not stat.S_ISREG(mode):
            raise ModelFileError(f"{path} is no regular file", CHOOSE_CHAT_MODEL)
        with path.open("rb") as file:

            def read_at(offset: int, length: int) -> bytes:
                file.seek(offset)
                return file.read(length)

            return read_header_from(read_at, file.seek(0, 2), str(path))
    except (FileNotFoundError, NotADirectoryError):
        raise ModelNotInstalled(f"There is no file {path}", "Look at what is installed with `phichat list`") from None
    except PermissionError:
        raise ModelFileError(f"{path} may not be read by this user", "Change its permissions") from None
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path} cannot be read", "Check the disk it is on", detail=str(error)) from None


def read_model_header(path: Path) -> GgufHeader:
    """The header of a model, whole or split (`NAME-00001-of-00003.gguf`); any part may be named.

    Raises what `read_header` raises, and ModelFileError naming the first part that is missing.
    """
    parts = list_split_paths(path)
    if parts[0] != path and not parts[0].exists():
        raise _missing_part_error(parts[0], len(parts))
    header = read_header(parts[0])
    if header.split_count != len(parts):
        raise ModelFileError(
            f"{path} is one of {header.split_count:,} parts by its header and its name says {len(parts):,}",
            "Give the parts the names back that they were published under",
        )
    tensors, size = list(header.tensors), header.file_size
    for part in parts[1:]:
        if not part.exists():
            raise _missing_part_error(part, len(parts))
        part_header = read_header(part)
        tensors += part_header.tensors
        size += part_header.file_size
    return replace(header, tensors=tuple(tensors), file_size=size)


def _missing_part_error(part: Path, count: int) -> ModelFileError:
    return ModelFileError(f"The model is split into {count} parts and {part.name} is missing", "Download that part too")


def read_header_from(read_at: ReadAt, file_size: int, source_name: str) -> GgufHeader:
    """The header of a GGUF of file_size bytes behind any source; where names it in errors.

    Raises ModelFileError; what the source itself raises passes through.
    """
    return _parse_header(HeaderReader(read_at, file_size, source_name))


def _read_version(cursor: HeaderReader) -> int:
    """Checks magic and version, and returns the version."""
    if cursor.file_size == 0:
        raise cursor.make_error("is empty")
    preamble = cursor.read_at(0, min(_PREAMBLE_BYTES, cursor.file_size))
    if preamble[:4] != b"GGUF":
        preview = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in preamble)
        raise ModelFileError(
            f"{cursor.source_name} is not a GGUF file: it begins with '{preview}' rather than 'GGUF'", CHOOSE_CHAT_MODEL
        )
    cursor.require_bytes(4)
    version = cursor.read_int("I")
    if version and version & 0xFFFF == 0:
        raise ModelFileError(f"{cursor.source_name} is a big-endian GGUF", "Choose a little-endian GGUF of the model")
    if version not in (2, 3):
        raise ModelFileError(
            f"{cursor.source_name} is a GGUF of version {version} and this program reads versions 2 and 3",
            "Choose a newer GGUF of the model" if version < 2 else "Update phichat",
        )
    return version


def _parse_header(cursor: HeaderReader) -> GgufHeader:
    version = _read_version(cursor)
    tensor_count, metadata_count = cursor.read_int(), cursor.read_int()
    if tensor_count > _MAX_TENSORS or metadata_count > _MAX_METADATA_KEYS:
        raise cursor.make_error(f"is damaged: it claims {tensor_count:,} tensors and {metadata_count:,} metadata keys")
    metadata: dict[str, MetadataValue] = {}
    for _ in range(metadata_count):
        key = cursor.read_string(_MAX_KEY_BYTES, "a metadata key")
        if key in metadata or key in cursor.array_lengths:
            raise cursor.make_error(f"is damaged: the metadata key {key!r} stands there twice")
        value = cursor.read_value(key, cursor.read_int("I"))
        if value is not None:
            metadata[key] = value
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise cursor.make_error(f"is damaged: its alignment is {alignment!r}, which is no power of two")
    tensors = tuple(_read_tensor_info(cursor) for _ in range(tensor_count))
    data_offset = -(-cursor.position // alignment) * alignment
    lengths, size = cursor.array_lengths, cursor.file_size
    header = GgufHeader(version, metadata, lengths, tensors, data_offset, alignment, size)
    if header.block_count > _MAX_LAYERS:
        raise cursor.make_error(f"is damaged: it claims {header.block_count:,} layers")
    end = max((data_offset + tensor.offset + tensor.size_bytes for tensor in tensors), default=0)
    if end > size:
        raise cursor.make_error(f"ends at {size:,} bytes but its tensors need {end:,}: the download was cut off")
    return header


def _read_tensor_info(cursor: HeaderReader) -> TensorInfo:
    name = cursor.read_string(_MAX_TENSOR_NAME - 1, "a tensor name")
    dimensions = cursor.read_int("I")
    if dimensions > 4:
        raise cursor.make_error(f"is damaged: the tensor {name!r} has {dimensions:,} dimensions")
    shape = tuple(cursor.read_int() for _ in range(dimensions))
    number, offset = cursor.read_int("I"), cursor.read_int()
    kind = GGML_TYPES.get(number)
    if kind is None:
        raise ModelFileError(
            f"{cursor.source_name} has the tensor {name!r} in the unknown quantization type {number}",
            "Choose another quantization of the model, or update phichat",
        )
    weights = 1
    for extent in shape:
        weights *= extent
    if weights >= 1 << 63 or offset >= 1 << 63:
        raise cursor.make_error(f"is damaged: the tensor {name!r} has an impossible size")
    row_length = shape[0] if shape else 1
    if row_length % kind.block_size:
        raise cursor.make_error(
            f"is damaged: rows of {row_length:,} weights in {name!r} are no whole blocks of {kind.name}"
        )
    return TensorInfo(name, shape, number, offset, weights // kind.block_size * kind.type_size)


def check_usable(header: GgufHeader, path: Path) -> None:
    """Raises ModelFileError when the file is a sound GGUF, but of something one cannot chat with.

    An architecture that is not known here passes: llama.cpp has the last word on it.
    """
    reason = _unsupported_reason(header)
    if reason:
        raise ModelFileError(f"{path} {reason}", CHOOSE_CHAT_MODEL)


def _unsupported_reason(header: GgufHeader) -> str:
    architecture, kind = header.architecture, header.get_str("general.type")
    if kind == "adapter":
        return "is a LoRA adapter, not a model"
    if kind == "imatrix":
        return "is an importance matrix for quantizing, not a model"
    if kind in PROJECTOR_ARCHITECTURES or architecture in PROJECTOR_ARCHITECTURES:
        return "is the image projector of a multimodal model, without the language model"
    if not architecture:
        return "does not name its architecture"
    if not header.tensors:
        return "holds a vocabulary only, no weights"
    if architecture in EMBEDDING_ARCHITECTURES or header.get_int("{arch}.pooling_type") > 0:
        return f"is an embedding model ({architecture}), which writes no text"
    if architecture in ENCODER_DECODER_ARCHITECTURES:
        return f"is an encoder-decoder model ({architecture}), which cannot chat"
    if architecture in SPEECH_ARCHITECTURES:
        return f"is part of a speech model ({architecture}), which writes no text"
    if architecture in DRAFT_ARCHITECTURES:
        return f"is a draft model ({architecture}), which only works beside a larger one"
    if not header.get_str("tokenizer.ggml.model") or not header.array_lengths.get("tokenizer.ggml.tokens"):
        return "has no tokenizer"
    return ""
