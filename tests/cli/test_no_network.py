"""What needs no network opens no socket for one: a guard in every process of the run notes each that does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.demo_model import no_other_models
from support.model_folders import on_hub
from support.tiny_gguf import write_tiny_llama

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a pair of sockets is two network sockets there")

GUARD = """
import os, socket, sys

def guard(event, arguments):
    if event == "socket.__new__" and arguments[1] in (socket.AF_INET, socket.AF_INET6):
        with open(os.environ["GUARD_LOG"], "a") as log:
            log.write(f"{event} {arguments} in {sys.argv}\\n")

sys.addaudithook(guard)
with open(os.environ["GUARD_LOG"], "a") as log:
    log.write("started\\n")
"""


@pytest.fixture
def guarded(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    content = write_tiny_llama(tmp_path / "made.gguf").read_bytes()
    on_hub(tmp_path / "hub", "alice/tiny-GGUF", "tiny-F32.gguf", content)
    return {
        **os.environ,
        **no_other_models(tmp_path),
        "PHICHAT_HOME": str(tmp_path / "home"),
        "PYTHONPATH": str(tmp_path / "guard"),
        "GUARD_LOG": str(tmp_path / "log"),
    }


def run(guarded: dict[str, str], *command: str) -> list[str]:
    """What the guard has seen."""
    subprocess.run([sys.executable, *command], env=guarded, capture_output=True, check=True, timeout=120)
    return Path(guarded["GUARD_LOG"]).read_text().splitlines()


def test_the_guard_sees_a_connection(guarded: dict[str, str]) -> None:
    program = "import socket\ntry: socket.create_connection(('127.0.0.1', 9), 1)\nexcept OSError: pass"
    assert any("socket.__new__" in line for line in run(guarded, "-c", program))


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "--max-tokens", "2", "-m", "alice/tiny-GGUF", "hi"),
        ("ask", "--max-tokens", "2", "hi"),
        ("list",),
        ("show", "alice/tiny-GGUF"),
        ("verify",),
        ("fit", "alice/tiny-GGUF"),
    ],
)
def test_no_socket_is_opened(guarded: dict[str, str], arguments: tuple[str, ...]) -> None:
    seen = run(guarded, "-m", "phichat", *arguments)
    assert seen
    assert set(seen) == {"started"}
