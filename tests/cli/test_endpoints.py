"""A server's model behind the same command line, as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.demo_model import no_other_models
from support.fake_openai_server import KEY, Answer, EndpointServer, chunk, saying, serving

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with serving() as made:
        made.key = KEY
        yield made


@pytest.fixture
def environment(tmp_path: Path, server: EndpointServer) -> dict[str, str]:
    folder = tmp_path / "home"
    own = {"PHICHAT_HOME": str(folder), "LAB_KEY": KEY, "PHICHAT_MODEL": ""}
    environment = {**os.environ, **no_other_models(tmp_path / "user"), **own}
    shown = subprocess.run(
        [sys.executable, "-m", "phichat", "path", "config"], env=environment, capture_output=True, text=True, check=True
    )
    config = Path(shown.stdout.strip())
    config = config if config.suffix else config / "config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(
        f'[endpoints.lab]\nbase_url = "{server.url}"\napi_key_env = "LAB_KEY"\nmodel = "tiny"\ntimeout = 2\n'
    )
    return environment


@pytest.fixture
def run(environment: dict[str, str]) -> Iterator[Run]:
    seen: list[str] = []

    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "phichat", *arguments]
        done = subprocess.run(
            command, input="", capture_output=True, text=True, env=environment, timeout=120, encoding="utf-8"
        )
        seen.extend((done.stdout, done.stderr))
        return done

    yield start
    kept = b"".join(file.read_bytes() for file in Path(environment["PHICHAT_HOME"]).rglob("*") if file.is_file())
    assert KEY not in "".join(seen)
    assert KEY.encode() not in kept


def test_ask_and_go_on(run: Run, server: EndpointServer) -> None:
    first = run("ask", "-m", "lab", "-s", "Be brief.", "Hello?")
    assert (first.returncode, first.stdout, first.stderr) == (0, "Hello, you.\n", "")
    second = run("ask", "--json", "-c", "And now?")
    document = json.loads(second.stdout)
    assert (document["model"], document["text"]) == ("lab/tiny", "Hello, you.")
    assert document["usage"] == {"prompt_tokens": 9, "cached_tokens": 0, "completion_tokens": 3}
    assert [message["role"] for message in server.asked[1]["messages"]] == ["system", "user", "assistant", "user"]
    assert "Hello, you." in run("export").stdout
    replayed = run("logs", "replay", document["conversation_id"])
    assert replayed.stdout.count("identical") == 2
    assert "can't be guaranteed" in replayed.stderr


def test_the_code_of_an_answer_is_checked(run: Run, server: EndpointServer) -> None:
    server.answers[0] = saying("```python\n", "import os\nos.getcwdd()\n", "```\n")
    done = run("ask", "--strict", "-m", "lab/tiny", "Where am I?")
    assert done.returncode == 6
    assert "getcwdd" in done.stderr


def test_what_the_server_has(run: Run, server: EndpointServer) -> None:
    server.models = [{"id": "microsoft/phi-4", "owned_by": "vllm", "max_model_len": 16384}]
    assert json.loads(run("list", "--endpoint", "lab", "--json").stdout) == [
        {"name": "lab/microsoft/phi-4", "id": "microsoft/phi-4", "context_length": 16384, "owned_by": "vllm"}
    ]
    assert "lab/microsoft/phi-4  16,384" in run("list", "--endpoint", "lab").stdout
    unknown = run("list", "--endpoint", "barn")
    assert (unknown.returncode, unknown.stderr) == (2, "phichat: There is no endpoint barn. The endpoints are lab.\n")


@pytest.mark.parametrize(
    ("answer", "code", "said", "words"),
    [
        (Answer((chunk(content="Once upon"),), then="reset"), 1, "Once upon\n", "cut its answer short"),
        (Answer(status=404, body={"error": {"message": "model tiny not found"}}), 3, "\n", "has no model tiny"),
        (Answer(status=400, body={"error": {"message": "maximum context length is 9 tokens"}}), 5, "\n", "holds 9"),
        (Answer(status=400, body={"error": {"message": f"odd \x1b[31m{KEY}"}}), 1, "\n", "rejected the request"),
    ],
)
def test_a_fault_is_one_sentence_and_an_exit_code(
    run: Run, server: EndpointServer, answer: Answer, code: int, said: str, words: str
) -> None:
    server.answers[0] = answer
    done = run("ask", "-m", "lab", "Hello?")
    assert (done.returncode, done.stdout.strip()) == (code, said.strip())
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert ". " in done.stderr
    assert "\x1b" not in done.stderr
    debug = run("ask", "--debug", "-m", "lab", "Hello?")
    assert "Traceback" in debug.stderr


def test_a_wrong_key(run: Run, server: EndpointServer) -> None:
    server.key = "another"
    done = run("ask", "--debug", "-m", "lab", "Hello?")
    assert done.returncode == 1
    assert "Check the key that comes from the variable LAB_KEY" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is another thing there")
def test_ctrl_c_keeps_what_was_said(environment: dict[str, str], server: EndpointServer) -> None:
    server.answers[0] = Answer((chunk(content="Once upon"),), then="stall")
    command = [sys.executable, "-m", "phichat", "ask", "-m", "lab", "Hello?"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment)
    assert process.stdout is not None
    until = time.monotonic() + 120
    while not server.asked and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert (said, process.returncode) == (b"Once upon\n", 130)


def test_an_endpoint_needs_no_extra(environment: dict[str, str]) -> None:
    program = "import sys; sys.modules['openai'] = None; from phichat.cli import main; main()"
    command = [sys.executable, "-c", program, "ask", "-m", "lab", "Hello?"]
    done = subprocess.run(command, input="", capture_output=True, text=True, env=environment, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hello, you.\n", "")
