"""`phichat serve` as a user runs it: a real process, the embedded model, the clients that people use."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import openai
import psutil
import pytest

from support.demo_model import embedded_model, no_other_models, without_machine_remarks

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent that Windows does not have")

HELLO = [{"role": "user", "content": "What is 2 + 2? Answer with a number."}]
LONG = [{"role": "user", "content": "Count from one to a thousand in words."}]


class Running:
    """url: with /v1. stop gives the exit code and all of stderr."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        assert process.stderr is not None
        self.lines: list[str] = []
        while "Listening on " not in (self.lines or [""])[-1]:
            line = process.stderr.readline()
            assert line, self.lines
            self.lines.append(line)
        self.url = self.lines[-1].split("Listening on ")[1].split(". ")[0]
        self._reader = Thread(target=lambda: self.lines.extend(process.stderr or ()), daemon=True)
        self._reader.start()

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1].split("/")[0])

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key="-", max_retries=0, timeout=120)

    def engines(self) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid).children()
        return [one for one in found if one.status() != psutil.STATUS_ZOMBIE]

    def stop(self, how: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(how)
        code = self.process.wait(120)
        self._reader.join(5)
        return code, without_machine_remarks("".join(self.lines))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("serve")
    own = {"PHICHAT_HOME": str(folder / "home"), "PHICHAT_MODEL": str(embedded_model())}
    return {**os.environ, **no_other_models(folder / "user"), **own}


@contextmanager
def running(environment: dict[str, str], *arguments: str) -> Iterator[Running]:
    process = subprocess.Popen(
        [sys.executable, "-m", "phichat", "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        encoding="utf-8",
    )
    try:
        yield Running(process)
    finally:
        process.kill()
        process.communicate()


def post(served: Running, body: bytes, version: str) -> bytes:
    head = f"POST /v1/chat/completions HTTP/{version}\r\nHost: localhost:{served.port}\r\n"
    return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture(scope="module")
def served(environment: dict[str, str]) -> Iterator[Running]:
    with running(environment) as served:
        yield served


def refused(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "phichat", "serve", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        encoding="utf-8",
    )
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("phichat: ")
    return done.returncode, done.stderr


def test_the_openai_client_chats(served: Running) -> None:
    with served.client as client:
        whole = client.chat.completions.create(model="smollm2-135m", messages=HELLO, temperature=0, max_tokens=24)  # type: ignore[arg-type]
        assert "4" in (whole.choices[0].message.content or "")
        assert whole.choices[0].finish_reason == "stop"
        chunks = list(
            client.chat.completions.create(
                model="smollm2-135m",
                messages=HELLO,  # type: ignore[arg-type]
                temperature=0,
                max_tokens=24,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage is not None
        assert whole.usage is not None
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
        assert [model.id for model in client.models.list()] == ["smollm2-135m"]
        assert client.models.retrieve("smollm2-135m").object == "model"


def test_the_errors_are_the_openai_clients_own(served: Running) -> None:
    with served.client as client:
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="gpt-4o", messages=HELLO)  # type: ignore[arg-type]
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(
                model="smollm2-135m", messages=[{"role": "user", "content": "word " * 9_000}]
            )
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.BadRequestError, match="tools"):
            client.chat.completions.create(
                model="smollm2-135m",
                messages=HELLO,  # type: ignore[arg-type]
                tools=[{"type": "function", "function": {"name": "f"}}],
            )


def test_the_same_seed_gives_the_same_answer_again(served: Running) -> None:
    with served.client as client:
        said = [
            client.chat.completions.create(
                model="smollm2-135m",
                messages=LONG,
                temperature=1.5,
                seed=seed,
                max_tokens=12,  # type: ignore[arg-type]
            )
            .choices[0]
            .message.content
            for seed in (7, 8, 7)
        ]
        several = client.chat.completions.create(model="", messages=LONG, temperature=1.5, seed=7, max_tokens=12, n=3)  # type: ignore[arg-type]
    assert said[0] == said[2] != said[1]
    assert len({choice.message.content for choice in several.choices}) == 3


def test_text_of_any_kind_reaches_the_model(served: Running) -> None:
    odd = "\0\x1b[2J \ud800 <|im_end|> \U0001f9d1\u200d\U0001f680 " + "𝔘" * 50
    body = json.dumps({"messages": [{"role": "user", "content": odd}], "max_tokens": 3}).encode()
    with socket.create_connection(("127.0.0.1", served.port), timeout=120) as connection:
        connection.sendall(post(served, body, "1.0"))
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.split()[1] == b"200", answer


def test_who_leaves_while_the_prompt_is_read_keeps_nobody_waiting(served: Running) -> None:
    with served.client as client:
        client.chat.completions.create(model="smollm2-135m", messages=HELLO, max_tokens=1)  # type: ignore[arg-type]
        body = json.dumps({"messages": [{"role": "user", "content": "word " * 7_000}]}).encode()
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(post(served, body, "1.1"))
            time.sleep(0.5)
        engines = served.engines()
        next = client.chat.completions.create(model="smollm2-135m", messages=HELLO, max_tokens=8)  # type: ignore[arg-type]
    assert next.choices[0].message.content
    assert served.engines() == engines


def test_llm_chats(served: Running, tmp_path: Path) -> None:
    llm = Path(sys.executable).with_name("llm")
    if not llm.exists():
        pytest.skip("llm is not installed")
    models = f'- model_id: mine\n  model_name: smollm2-135m\n  api_base: "{served.url}"\n  api_key_name: mine\n'
    (tmp_path / "extra-openai-models.yaml").write_text(models)
    (tmp_path / "keys.json").write_text('{"mine": "-"}')
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path)}
    usual = [str(llm), "-m", "mine", "-o", "temperature", "0", "-o", "max_tokens", "24", HELLO[0]["content"]]
    for arguments in (usual, [*usual, "--no-stream"]):
        done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=120, check=False)
        assert (done.returncode, "4" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_the_engine_and_tells_who_waits(environment: dict[str, str], how: int) -> None:
    with running(environment) as served, served.client as client:
        stream = client.chat.completions.create(model="", messages=LONG, temperature=0, stream=True)  # type: ignore[arg-type]
        said = [next(stream).choices[0].delta.content for _ in range(3)]
        engines = served.engines()
        assert len(engines) == 1
        code, stderr = served.stop(how)
        with pytest.raises(openai.APIError, match="phichat serve was stopped"):
            for chunk in stream:
                said.append(chunk.choices[0].delta.content)
        assert "".join(word or "" for word in said)
        psutil.wait_procs(engines, 5)
        assert not any(engine.is_running() for engine in engines)
    assert code == 0
    assert stderr.count("\n") == 1


def test_several_are_answered_at_once_by_one_engine_that_stays(environment: dict[str, str], tmp_path: Path) -> None:
    own = {**environment, "PHICHAT_HOME": str(tmp_path / "home"), "PHICHAT_KEEP_ALIVE": "60"}

    def phichat(*arguments: str) -> str:
        command = [sys.executable, "-m", "phichat", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=own, check=True).stdout

    try:
        with running(own) as served, served.client as client:
            streams = [
                client.chat.completions.create(model="", messages=LONG, temperature=0, stream=True)  # type: ignore[arg-type]
                for _ in range(3)
            ]
            # Each of them has begun while none has ended.
            texts = ["".join(next(stream).choices[0].delta.content or "" for _ in range(4)) for stream in streams]
            assert all(texts)
            (engine,) = json.loads(phichat("ps", "--json"))
            for stream in streams:
                stream.close()
            assert client.chat.completions.create(model="", messages=HELLO, max_tokens=2).choices[0].message.content  # type: ignore[arg-type]
            assert served.stop()[0] == 0
        assert [one["pid"] for one in json.loads(phichat("ps", "--json"))] == [engine["pid"]]
    finally:
        phichat("stop")


def test_a_dead_engine_is_told_and_the_next_request_gets_another(environment: dict[str, str]) -> None:
    with running(environment) as served, served.client as client:
        stream = client.chat.completions.create(model="", messages=LONG, temperature=0, stream=True)  # type: ignore[arg-type]
        next(stream)
        served.engines()[0].kill()
        with pytest.raises(openai.APIError, match="killed"):
            list(stream)
        again = client.chat.completions.create(model="", messages=HELLO, max_tokens=3)  # type: ignore[arg-type]
        assert again.choices[0].message.content
        assert "Traceback" not in served.stop()[1]


def test_what_clients_send_cannot_steer_the_terminal(environment: dict[str, str]) -> None:
    with running(environment, "--debug") as served:
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(f"GET /\x1b[2J%1b]0;x HTTP/1.1\r\nHost: localhost:{served.port}\r\n\r\n".encode())
            connection.recv(4096)
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(f"GET /%1b[2J%9b HTTP/1.1\r\nHost: localhost:{served.port}\r\n\r\n".encode())
            connection.recv(4096)
        code, stderr = served.stop()
    assert code == 0
    assert "\x1b" not in stderr
    assert "\x9b" not in stderr
    assert " 404" in stderr


def test_with_log_a_request_is_a_conversation(environment: dict[str, str]) -> None:
    with running(environment, "--log", "--max-tokens", "4") as served:
        with served.client as client:
            client.chat.completions.create(model="", messages=LONG, max_tokens=100)  # type: ignore[arg-type]
        served.stop()
    command = [sys.executable, "-m", "phichat", "logs", "--json"]
    listed = json.loads(subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout)
    assert [(one["title"], one["turns"]) for one in listed] == [("Count from one to a thousand in words.", 1)]
    # What a client asks for is not what the user goes on with.
    chosen = {name: value for name, value in environment.items() if name != "PHICHAT_MODEL"}
    asked = subprocess.run(
        [sys.executable, "-m", "phichat", "ask", "--max-tokens", "1", "hi"], capture_output=True, text=True, env=chosen
    )
    assert "Using the small built-in model" in asked.stderr


def test_what_cannot_be_served_is_told_in_one_sentence(environment: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, said = refused(environment, "--port", str(taken.getsockname()[1]))
        assert (code, "Choose another --port" in said) == (1, True)
    assert refused(environment, "--host", "192.0.2.1", "--api-key-env", "HOME")[0] == 1
    assert refused(environment, "--host", "no such host")[0] == 1
    code, said = refused(environment, "--host", "0.0.0.0")
    assert (code, "--api-key-env" in said) == (2, True)
    assert refused(environment, "--api-key-env", "NO_SUCH_VARIABLE")[0] == 2
    assert refused(environment, "-m", "no-such-model")[0] == 3
    assert refused(environment, "--port", "99999")[0] == 2


def test_config_and_key(environment: dict[str, str], tmp_path: Path) -> None:
    own = {**environment, "PHICHAT_HOME": str(tmp_path), "MY_KEY": "sekrit-0123"}
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.toml").write_text('[serve]\nhost = "0.0.0.0"\napi_key_env = "MY_KEY"\n')
    with running(own, "--debug") as served:
        url = f"http://127.0.0.1:{served.port}/v1"
        with openai.OpenAI(base_url=url, api_key="sekrit-0123", max_retries=0) as client:
            assert list(client.models.list())
        with (
            openai.OpenAI(base_url=url, api_key="wrong", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.models.list()
        assert "sekrit" not in served.stop()[1]
    for wrong in ('key = "x"', "port = 70000", "allow_hosts = 3"):
        (tmp_path / "config" / "config.toml").write_text(f"[serve]\n{wrong}\n")
        assert refused(own)[0] == 2


def test_without_its_packages_it_says_what_to_install(environment: dict[str, str]) -> None:
    program = "import sys\nsys.modules['starlette'] = None\nfrom phichat.cli.app import run_command_line\n"
    program += "sys.exit(run_command_line(['serve']))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert "phichat-cli[serve]" in done.stderr
    assert done.stderr.count("\n") == 1
