"""The header reader: what it finds, what it says about damaged files, and that it stays within bounds."""

from __future__ import annotations

import io
import os
import struct
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf import GGML_QUANT_SIZES
from phichat.errors import ModelFileError, ModelNotInstalled
from phichat.gguf.header import GgufHeader, check_usable, read_header, read_header_from, read_model_header
from phichat.gguf.types import FILE_TYPES, GGML_TYPES
from support import tiny_gguf

U32, F32, STRING, ARRAY, U64 = 4, 6, 8, 9, 10


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def entry(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: bytes, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def header_bytes(
    entries: tuple[bytes, ...] = (),
    tensors: tuple[bytes, ...] = (),
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    tensor_count, entry_count = counts or (len(tensors), len(entries))
    start = b"GGUF" + struct.pack("<IQQ", version, tensor_count, entry_count)
    return start + b"".join(entries) + b"".join(tensors)


def read_bytes(data: bytes) -> GgufHeader:
    source = io.BytesIO(data)

    def read(offset: int, length: int) -> bytes:
        source.seek(offset)
        return source.read(length)

    return read_header_from(read, len(data), "model.gguf")


def refusal(data: bytes) -> str:
    with pytest.raises(ModelFileError) as caught:
        read_bytes(data)
    assert not caught.value.message.endswith(".")
    assert caught.value.next_step
    return caught.value.message


def test_reads_a_model_that_llama_cpp_loads(tmp_path: Path) -> None:
    path = tiny_gguf.write_tiny_llama(tmp_path / "tiny.gguf", weights="Q8_0")
    header = read_model_header(path)
    check_usable(header, path)
    assert (header.version, header.architecture, header.name, header.quantization) == (3, "llama", "tiny", "Q8_0")
    assert (header.block_count, header.context_length, header.embedding_length) == (2, 2048, 64)
    assert (header.head_count, header.head_count_kv, header.key_length, header.value_length) == (4, (2, 2), 16, 16)
    assert header.feed_forward_length == 128
    assert header.vocab_size == 272
    assert header.chat_template == tiny_gguf.CHATML
    assert header.file_size == path.stat().st_size
    last = max(header.tensors, key=lambda item: item.offset)
    assert header.data_offset + last.offset + last.size_bytes <= header.file_size


def test_tables_agree_with_ggml() -> None:
    for kind, (block, size) in GGML_QUANT_SIZES.items():
        assert GGML_TYPES[int(kind)] == (kind.name, block, size)
    assert FILE_TYPES[15] == "Q4_K_M"


def test_keeps_short_arrays_and_skips_long_ones(tmp_path: Path) -> None:
    metadata: dict[str, Any] = {
        "llama.block_count": 3,
        "llama.attention.head_count": 8,
        "llama.attention.head_count_kv": [2, 0, 4],
        "general.languages": ["en", "de"],
        "long.numbers": list(range(2000)),
        "tokenizer.ggml.tokens": [f"token {number}" for number in range(3000)],
        "after": "still read",
    }
    header = read_header(tiny_gguf.write_gguf(tmp_path / "arrays.gguf", metadata))
    assert header.head_count_kv == (2, 0, 4)
    assert header.metadata["general.languages"] == ("en", "de")
    assert header.array_lengths["long.numbers"] == 2000
    assert "long.numbers" not in header.metadata
    assert header.vocab_size == 3000
    assert header.get_str("after") == "still read"


def test_keys_of_another_type_than_expected_are_as_absent() -> None:
    entries = (
        entry(b"general.architecture", STRING, text(b"llama")),
        entry(b"llama.block_count", STRING, text(b"many")),
        entry(b"general.name", U32, struct.pack("<I", 7)),
    )
    header = read_bytes(header_bytes(entries))
    assert header.block_count == 0
    assert header.name == ""
    assert header.quantization == ""


@pytest.mark.timing
def test_long_vocabulary_is_quick() -> None:
    tokens = b"".join(text(b"token") for _ in range(200_000))
    data = header_bytes((entry(b"tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", STRING, 200_000) + tokens),))
    best = min(_seconds(data) for _ in range(3))
    assert read_bytes(data).vocab_size == 200_000
    assert best < 0.5, f"{best:.3f} s; 0.03 s is usual"


def _seconds(data: bytes) -> float:
    started = time.process_time()  # other processes do not add to it
    read_bytes(data)
    return time.process_time() - started


def test_strings_across_the_window() -> None:
    strings = b"".join(text(b"x" * length) for length in range(0, 3000, 2))
    array = entry(b"list", ARRAY, struct.pack("<IQ", STRING, 1500) + strings)
    data = header_bytes((array, entry(b"after", STRING, text(b"here"))))
    assert len(data) > 2 << 20
    assert read_bytes(data).get_str("after") == "here"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"Once upon a time", "begins with 'Once upon' rather than 'GGUF'"),
        (b"GGUF\x03\x00", "ends at 6 bytes, inside its header"),
        (b"GGUF\x00\x00\x00\x03" + bytes(16), "big-endian"),
        (header_bytes(version=1), "version 1"),
        (header_bytes(version=9), "version 9"),
        (header_bytes(counts=(1 << 40, 0)), "claims 1,099,511,627,776 tensors"),
        (header_bytes(counts=(0, 1 << 62)), "metadata keys"),
        (header_bytes((struct.pack("<Q", 1 << 63),), counts=(0, 1)), "a metadata key of"),
        (header_bytes((entry(b"k", 99, b""),)), "unknown type 99"),
        (header_bytes((entry(b"k", ARRAY, struct.pack("<IQ", ARRAY, 1)),)), "unusable type 9"),
        (header_bytes((entry(b"k", ARRAY, struct.pack("<IQ", U32, 1 << 60)),)), "elements"),
        (header_bytes((entry(b"k", ARRAY, struct.pack("<IQ", U32, 1 << 29)),)), "inside its header"),
        (header_bytes((entry(b"k", ARRAY, struct.pack("<IQ", STRING, 1 << 29)),)), "strings"),
        (header_bytes((entry(b"k", ARRAY, struct.pack("<IQ", STRING, 1 << 20)),)), "inside its header"),
        (header_bytes((entry(b"k", U32, bytes(4)),) * 2), "twice"),
        (header_bytes((entry(b"tokenizer.chat_template", STRING, text(b"x" * (1 << 21))),)), "a chat template of"),
        (header_bytes((entry(b"general.alignment", U32, struct.pack("<I", 33)),)), "alignment is 33"),
        (header_bytes((), (tensor(b"t", (1,) * 5),)), "5 dimensions"),
        (header_bytes((), (tensor(b"t", (1 << 40, 1 << 40)),)), "impossible size"),
        (header_bytes((), (tensor(b"t", (32,), kind=4),)), "unknown quantization type 4"),
        (header_bytes((), (tensor(b"t", (33,), kind=2),)), "aren't a multiple of the Q4_0 block size"),
        (header_bytes((), (tensor(b"t", (1024,)),)), "its tensors need 4,160: the download was cut off"),
    ],
)
def test_error_messages(data: bytes, words: str) -> None:
    assert words in refusal(data)


def test_an_array_of_long_strings_is_cut_off() -> None:
    claimed = struct.pack("<IQ", STRING, 100) + struct.pack("<Q", (1 << 64) - 1) + bytes(1000)
    assert "inside its header" in refusal(header_bytes((entry(b"k", ARRAY, claimed),)))


def test_stored_metadata_is_bounded() -> None:
    numbers = struct.pack("<IQ", 0, 1024) + bytes(1024)
    entries = tuple(entry(b"k%d" % number, ARRAY, numbers) for number in range(1000))
    assert "takes more than" in refusal(header_bytes(entries))


def test_layers_are_bounded() -> None:
    entries = (
        entry(b"general.architecture", STRING, text(b"llama")),
        entry(b"llama.block_count", U32, struct.pack("<I", 0xFFFFFFFF)),
    )
    assert "4,294,967,295 layers" in refusal(header_bytes(entries))


def test_long_strings_are_left_out() -> None:
    entries = (
        entry(b"tokenizer.huggingface.json", STRING, text(b"x" * 100_000)),
        entry(b"after", U64, struct.pack("<Q", 1 << 40)),
    )
    header = read_bytes(header_bytes(entries))
    assert "tokenizer.huggingface.json" not in header.metadata
    assert header.get_int("after") == 1 << 40


def test_paths_that_are_not_files(tmp_path: Path) -> None:
    with pytest.raises(ModelNotInstalled):
        read_model_header(tmp_path / "absent.gguf")
    with pytest.raises(ModelFileError, match="directory"):
        read_model_header(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions and pipes are POSIX")
def test_paths_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelFileError, match="isn't a regular file"):
        read_model_header(tmp_path / "pipe.gguf")
    locked = tmp_path / "locked.gguf"
    locked.write_bytes(b"GGUF")
    locked.chmod(0)
    if not os.access(locked, os.R_OK):
        with pytest.raises(ModelFileError, match="isn't readable"):
            read_model_header(locked)


def _write_parts(folder: Path) -> list[Path]:
    paths = []
    for part in range(3):
        metadata = {"split.count": 3, "split.no": part, "split.tensors.count": 3}
        path = folder / f"big-{part + 1:05d}-of-00003.gguf"
        paths.append(tiny_gguf.write_gguf(path, metadata, {f"blk.{part}.ffn_up.weight": (4, 32)}))
    return paths


def test_split_model_is_one_model(tmp_path: Path) -> None:
    parts = _write_parts(tmp_path)
    for part in parts:
        header = read_model_header(part)
        assert [tensor.name for tensor in header.tensors] == [f"blk.{number}.ffn_up.weight" for number in range(3)]
        assert header.file_size == sum(path.stat().st_size for path in parts)


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_missing_part_is_named(tmp_path: Path, lost: int) -> None:
    parts = _write_parts(tmp_path)
    parts[lost].unlink()
    with pytest.raises(ModelFileError, match=parts[lost].name):
        read_model_header(parts[(lost + 1) % 3])


def test_renamed_part_is_refused(tmp_path: Path) -> None:
    renamed = _write_parts(tmp_path)[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(ModelFileError, match="3 parts according to its header"):
        read_model_header(renamed)


@pytest.mark.parametrize(
    ("architecture", "metadata", "words"),
    [
        ("llama", {"general.type": "adapter"}, "LoRA adapter"),
        ("llama", {"general.type": "imatrix"}, "importance matrix"),
        ("clip", {"general.type": "mmproj"}, "image projector"),
        ("bert", {}, "embedding model"),
        ("qwen3", {"qwen3.pooling_type": 3}, "embedding model"),
        ("t5", {}, "encoder-decoder"),
        ("wavtokenizer-dec", {}, "speech"),
        ("eagle3", {}, "draft model"),
        ("llama", {}, "no tokenizer"),
    ],
)
def test_models_that_cannot_chat(tmp_path: Path, architecture: str, metadata: dict[str, Any], words: str) -> None:
    path = tiny_gguf.write_gguf(tmp_path / "other.gguf", metadata, {"a.weight": (2, 32)}, architecture)
    with pytest.raises(ModelFileError, match=words):
        check_usable(read_model_header(path), path)


def test_vocabulary_only_and_unknown_architecture(tmp_path: Path) -> None:
    tokenizer = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", "b"]}
    vocabulary = tiny_gguf.write_gguf(tmp_path / "vocab.gguf", tokenizer)
    with pytest.raises(ModelFileError, match="vocabulary only"):
        check_usable(read_model_header(vocabulary), vocabulary)
    novel = tiny_gguf.write_gguf(tmp_path / "novel.gguf", tokenizer, {"a.weight": (2, 32)}, "novel-7")
    check_usable(read_model_header(novel), novel)


VALID = header_bytes(
    (
        entry(b"general.architecture", STRING, text(b"llama")),
        entry(b"llama.block_count", U32, struct.pack("<I", 2)),
        entry(b"llama.attention.head_count_kv", ARRAY, struct.pack("<IQII", U32, 2, 1, 2)),
        entry(b"tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", STRING, 80) + b"".join([text(b"abc")] * 80)),
        entry(b"tokenizer.chat_template", STRING, text(b"{{ messages }}")),
    ),
    (tensor(b"token_embd.weight", (32, 4), 8), tensor(b"blk.0.ffn_up.weight", (32, 4), 0, 160)),
) + bytes(1024)


@settings(max_examples=300, deadline=2000)
@given(st.data())
def test_damage_is_refused_or_read(data: st.DataObject) -> None:
    damaged = bytearray(VALID[: data.draw(st.integers(0, len(VALID)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if damaged:
            at = data.draw(st.integers(0, len(damaged) - 1))
            new = data.draw(st.one_of(st.binary(min_size=1, max_size=8), st.just(b"\xff" * 8)))
            damaged[at : at + len(new)] = new
    try:
        header = read_bytes(bytes(damaged))
    except ModelFileError:
        return
    assert len(header.head_count_kv) == header.block_count
    assert header.vocab_size >= 0
    assert header.key_length >= 0
    assert isinstance(header.quantization, str)
