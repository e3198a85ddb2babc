"""KV files: read back exactly, and refused when any byte differs."""

import hashlib
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phichat.engine.ipc.protocol import LoadModel
from phichat.engine.worker.kv_cache.file_format import (
    MAGIC,
    CorruptKvFile,
    KvFileHeader,
    common_prefix_length,
    create_file,
    is_being_written,
    map_payload,
    pack_tokens,
    read_header,
    unpack_tokens,
    write_file,
)
from phichat.engine.worker.kv_cache.persistence import compute_cache_key

TOKENS = st.lists(st.integers(0, 2**32 - 1), max_size=60)


def written(path: Path, tokens: list[int], payload: bytes) -> bytes:
    path.unlink(missing_ok=True)
    file = create_file(path, 10_000)
    assert is_being_written(path)
    write_file(
        file,
        KvFileHeader(
            "k" * 64, "owner", pack_tokens(tokens), 0.02, True, len(payload), hashlib.sha256(payload).hexdigest()
        ),
        payload,
    )
    assert not is_being_written(path) or sys.platform == "win32"
    return path.read_bytes()


def read(path: Path) -> tuple[KvFileHeader, bytes]:
    with path.open("rb") as file:
        head = read_header(file)
        return head, bytes(map_payload(file, head))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("states") / "state"


@settings(deadline=None)  # a disk takes the time it takes
@given(tokens=TOKENS, payload=st.binary(max_size=300))
def test_what_was_written_is_read(path: Path, tokens: list[int], payload: bytes) -> None:
    written(path, tokens, payload)
    head, content = read(path)
    assert (unpack_tokens(head.tokens), head.token_count, content) == (tokens, len(tokens), payload)


@settings(deadline=None)  # a disk takes the time it takes
@given(data=st.data())
def test_no_byte_can_change(path: Path, data: st.DataObject) -> None:
    content = bytearray(written(path, [1, 2, 3], b"payload" * 9))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(CorruptKvFile):
        read(path)


@settings(deadline=None)  # a disk takes the time it takes
@given(data=st.data())
def test_no_byte_can_be_missing_or_added(path: Path, data: st.DataObject) -> None:
    content = written(path, [1, 2, 3], b"payload" * 9)
    cut = data.draw(st.integers(0, len(content) - 1))
    path.write_bytes(data.draw(st.sampled_from([content[:cut], content + content[: cut + 1]])))
    with pytest.raises(CorruptKvFile):
        read(path)


@settings(deadline=None)  # a disk takes the time it takes
@given(content=st.binary(max_size=400))
def test_anything_else_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(CorruptKvFile):
        read(path)


_HEAD = {"key": "k", "owner": "o", "tokens": 1, "seconds": 1.0, "divisible": True, "payload": 1, "sha256": "s"}


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"null",
        b"[" * 4000,
        b"{" * 4000,
        b'{"tokens": ' + b"9" * 4000,
        *(json.dumps({**_HEAD, **other}).encode() for other in (
            {"tokens": 2**62}, {"payload": 2**62}, {"tokens": -1}, {"payload": -1}, {"tokens": True}, {"key": None},
            {"more": 1}, {"seconds": "1"},
        )),
        json.dumps({"key": "k"}).encode(),
    ],
)  # fmt: skip
def test_impossible_headers_are_refused_before_memory_is_allocated(path: Path, document: bytes) -> None:
    path.write_bytes(MAGIC + len(document).to_bytes(4, "little") + document + b"\0" * 100)
    with pytest.raises(CorruptKvFile):
        read(path)


@settings(deadline=None)  # a disk takes the time it takes
@given(one=TOKENS, other=TOKENS, same=TOKENS)
def test_common_prefix_length(one: list[int], other: list[int], same: list[int]) -> None:
    counted = common_prefix_length(pack_tokens(same + one), pack_tokens(same + other))
    one, other = same + one, same + other
    assert one[:counted] == other[:counted]
    assert counted == min(len(one), len(other)) or one[counted] != other[counted]


def test_a_file_of_version_0_1_is_read(path: Path) -> None:
    """It has spaces in its JSON."""
    payload, tokens = b"payload", pack_tokens([7, 8])
    fields = {**_HEAD, "tokens": 2, "payload": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    document = json.dumps(fields).encode()
    head = MAGIC + len(document).to_bytes(4, "little") + document + tokens
    path.write_bytes(head + hashlib.sha256(head).digest() + payload)
    header, content = read(path)
    assert (header.key, header.owner, header.seconds, header.divisible) == ("k", "o", 1.0, True)
    assert (unpack_tokens(header.tokens), content) == ([7, 8], payload)


def test_the_key_is_that_of_version_0_1() -> None:
    split, costs = (0.75, 0.25), ((2, 1.5),)
    request = LoadModel(
        path="/models/phi.gguf", n_ctx=8192, n_batch=512, n_seq_max=4, n_gpu_layers=16, tensor_split=split,
        type_k="f16", type_v="q8_0", threads=8, extra_buffers=True, warm_up=False, kv_store_path="/cache/states",
        kv_store_budget=1000, model_identity="model\nlibrary\nmachine", prompt_threads=4, batch_costs=costs,
    )  # fmt: skip
    assert compute_cache_key(request) == "186eb94841373044e6aae6b61fe1411ed4811a38fc1592fd3e2d420edf84aa3b"
