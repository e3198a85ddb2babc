"""What is remembered about a library on a machine."""

import json
from pathlib import Path

from phichat.engine.autotune.cpu_buffer_probe import ProbeCache, ProbeKey, ProbeOutcome, build_probe_key
from phichat.gguf.header import read_model_header
from support.tiny_gguf import write_tiny_llama

ABOUT = ProbeKey("model name\t: Some CPU\nflags\t: amx", "/lib/libllama.so [1]", "Q4_K,F32")


def test_a_verdict_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "engine.json"
    assert ProbeCache(file).lookup(ABOUT) is None
    ProbeCache(file).store(ABOUT, ProbeOutcome.CRASHES)
    assert ProbeCache(file).lookup(ABOUT) is ProbeOutcome.CRASHES
    assert next(iter(ProbeCache(file).load_entries().values()))["cpu"] == "Some CPU"


def test_a_damaged_file_is_no_verdict(tmp_path: Path) -> None:
    file = tmp_path / "engine.json"
    for content in ("", "[]", "{", json.dumps({ABOUT.key: 3}), json.dumps({ABOUT.key: {"verdict": "?"}})):
        file.write_text(content)
        assert ProbeCache(file).lookup(ABOUT) is None


def test_a_rebuilt_library_is_another_subject(tmp_path: Path) -> None:
    header = read_model_header(write_tiny_llama(tmp_path / "tiny.gguf"))
    library = tmp_path / "libllama.so"
    library.write_bytes(b"")
    cpu_code = tmp_path / "libggml-cpu.so"
    cpu_code.write_bytes(b"one")
    before = build_probe_key(library, header)
    assert build_probe_key(library, header) == before
    cpu_code.write_bytes(b"another")
    assert build_probe_key(library, header).key != before.key
