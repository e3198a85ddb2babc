"""What is remembered about a library on a machine."""

import json
from pathlib import Path

from ggufs import write_tiny_llama
from phichat.engine.verdicts import Subject, Verdict, Verdicts, subject
from phichat.gguf_header import read_model

ABOUT = Subject("model name\t: Some CPU\nflags\t: amx", "/lib/libllama.so [1]", "Q4_K,F32")


def test_a_verdict_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "engine.json"
    assert Verdicts(file).lookup(ABOUT) is None
    Verdicts(file).remember(ABOUT, Verdict.CRASHES)
    assert Verdicts(file).lookup(ABOUT) is Verdict.CRASHES
    assert next(iter(Verdicts(file).all().values()))["cpu"] == "Some CPU"


def test_a_damaged_file_is_no_verdict(tmp_path: Path) -> None:
    file = tmp_path / "engine.json"
    for content in ("", "[]", "{", json.dumps({ABOUT.key: 3}), json.dumps({ABOUT.key: {"verdict": "?"}})):
        file.write_text(content)
        assert Verdicts(file).lookup(ABOUT) is None


def test_a_rebuilt_library_is_another_subject(tmp_path: Path) -> None:
    header = read_model(write_tiny_llama(tmp_path / "tiny.gguf"))
    library = tmp_path / "libllama.so"
    library.write_bytes(b"")
    cpu_code = tmp_path / "libggml-cpu.so"
    cpu_code.write_bytes(b"one")
    before = subject(library, header)
    assert subject(library, header) == before
    cpu_code.write_bytes(b"another")
    assert subject(library, header).key != before.key
