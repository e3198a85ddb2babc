"""`phichat ask --vote` as a user runs it: a real process, a real server or a real model."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.demo_model import embedded_model, no_other_models, without_machine_remarks
from support.fake_openai_server import Answer, EndpointServer, saying, serving

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with serving() as made:
        yield made


@pytest.fixture
def environment(tmp_path: Path, server: EndpointServer) -> dict[str, str]:
    own = {"PHICHAT_HOME": str(tmp_path / "home"), "PHICHAT_MODEL": str(embedded_model())}
    environment = {**os.environ, **no_other_models(tmp_path / "user"), **own}
    command = [sys.executable, "-m", "phichat", "path", "config"]
    config = Path(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip())
    config = config if config.suffix else config / "config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(f'[endpoints.lab]\nbase_url = "{server.url}"\nmodel = "tiny"\ntimeout = 5\n')
    return environment


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "phichat", "ask", *arguments]
        done = subprocess.run(
            command, input="", capture_output=True, text=True, env=environment, timeout=60, encoding="utf-8"
        )
        done.stderr = without_machine_remarks(done.stderr)
        return done

    return start


def several(*texts: str, n: bool = True) -> list[Answer]:
    """Answers for a server that takes `n`, or for one that always gives one."""
    if not n:
        return [saying(text) for text in texts]
    pieces: list[Any] = []
    for at, text in enumerate(texts):
        for delta, finish in ({"content": text[:1]}, None), ({"content": text[1:]}, "stop"):
            pieces.append(
                {"object": "chat.completion.chunk", "choices": [{"index": at, "delta": delta, "finish_reason": finish}]}
            )
    usage = {"prompt_tokens": 9, "completion_tokens": 2 * len(texts)}
    return [Answer((*pieces[::2], *pieces[1::2], {"object": "chat.completion.chunk", "choices": [], "usage": usage}))]


@pytest.mark.parametrize("n", [True, False])
def test_the_answer_most_agree_on_is_printed(run: Run, server: EndpointServer, n: bool) -> None:
    server.answers.clear()
    server.answers.extend(several("It is 41.", "So 42", "42", "42.0", "Answer: 42", n=n))
    done = run("-m", "lab", "--vote", "5", "--seed", "3", "How many?")
    assert (done.returncode, done.stdout) == (0, "So 42\n")
    assert done.stderr == "phichat: 4 of 5 samples agree (80 %): 42; 1 said 41.\n"
    assert server.asked[0]["n"] == 5
    assert [asked["seed"] for asked in server.asked] == ([3] if n else [3, 4, 5, 6, 7])


def test_a_server_that_refuses_n_is_asked_again_and_again(run: Run, server: EndpointServer) -> None:
    server.answers.clear()
    refusal = Answer(status=400, body={"error": {"message": "Only one completion choice is allowed"}})
    server.answers.extend([refusal, *several("B", "C", "(b)", n=False)])
    done = run("-m", "lab", "--vote", "3", "Which?")
    assert (done.returncode, done.stdout) == (0, "B\n")
    assert "2 of 3 samples agree (67 %): B; 1 said C." in done.stderr
    assert len(server.asked) == 4


def test_json_has_every_sample(run: Run, server: EndpointServer) -> None:
    server.answers.clear()
    server.answers.extend(several("41", "42", "42", "none"))
    document = json.loads(run("-m", "lab", "--vote", "4", "--vote-by", "number", "--json", "--seed", "3", "?").stdout)
    assert (document["text"], document["seed"], document["finish_reason"]) == ("42", 4, "stop")
    vote = document["vote"]
    assert [(sample["text"], sample["seed"], sample["tokens"]) for sample in vote["samples"]] == [
        ("41", 3, 2),
        ("42", 4, 2),
        ("42", 5, 2),
        ("none", 6, 2),
    ]
    assert {sample["finish_reason"] for sample in vote["samples"]} == {"stop"}
    assert [(group["answer"], group["count"]) for group in vote["groups"]] == [("42", 2), ("41", 1), (None, 1)]
    assert (vote["agreement"], vote["by"], vote["winner"]) == (0.5, "number", 1)


def test_the_samples_are_kept_beside_the_answer(run: Run, server: EndpointServer, environment: dict[str, str]) -> None:
    server.answers.clear()
    server.answers.extend(several("41", "42", "42"))
    kept_as = json.loads(run("-m", "lab", "--vote", "3", "--json", "How many?").stdout)["conversation_id"]
    server.answers.clear()
    server.answers.append(saying("Because."))
    assert run("-c", "Why?").stdout == "Because.\n"
    assert [message["content"] for message in server.asked[-1]["messages"]] == ["How many?", "42", "Why?"]
    command = [sys.executable, "-m", "phichat", "export", kept_as, "--format", "json"]
    exported = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert exported.count('"How many?"') >= 3
    (file,) = Path(environment["PHICHAT_HOME"]).rglob("logs.db")
    with sqlite3.connect(file) as connection:
        turns = connection.execute("SELECT prompt, text, parent IS NULL FROM turn ORDER BY n").fetchall()
    assert sorted(turns) == [
        ("How many?", "41", 1),
        ("How many?", "42", 1),
        ("How many?", "42", 1),
        ("Why?", "Because.", 0),
    ]


def test_the_code_check_is_of_the_answer(run: Run, server: EndpointServer) -> None:
    fine, bad = "```python\nimport json\n```", "```python\nimport numpyy\n```"
    server.answers.clear()
    server.answers.extend(several(bad, fine, fine))
    assert run("-m", "lab", "--vote", "3", "--strict", "Code!").returncode == 0
    server.answers.clear()
    server.answers.extend(several(bad, fine, bad))
    done = run("-m", "lab", "--vote", "3", "--strict", "-x", "Code!")
    assert (done.returncode, done.stdout) == (6, "import numpyy\n")


@pytest.mark.parametrize(
    "arguments", [["--vote", "0"], ["--vote", "x"], ["--vote-by", "number"], ["--vote", "2", "--vote-by", "x"]]
)
def test_votes_that_cannot_be_meant(run: Run, arguments: list[str]) -> None:
    done = run(*arguments, "hi")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_a_server_that_fails_keeps_what_was_complete(run: Run, server: EndpointServer) -> None:
    server.answers.clear()
    server.answers.extend([*several("42", "42", n=False), Answer(status=401, body={"error": {"message": "no"}})])
    done = run("-m", "lab", "--vote", "3", "How many?")
    assert (done.returncode, done.stdout) == (1, "42\n")
    assert "Only 2 of 3 samples were complete. 2 of 2 samples agree" in done.stderr


def test_the_embedded_model_gives_the_same_samples_again(run: Run) -> None:
    usual = ("--vote", "5", "--json", "--max-tokens", "16", "--seed", "11", "What is 3 + 4?")
    first, again = (json.loads(run(*usual).stdout) for _ in range(2))
    texts = [sample["text"] for sample in first["vote"]["samples"]]
    assert texts == [sample["text"] for sample in again["vote"]["samples"]]
    assert len(set(texts)) > 1
    assert [sample["seed"] for sample in first["vote"]["samples"]] == [11, 12, 13, 14, 15]
    assert first["usage"]["prompt_tokens"] > 0


def piece(at: int, text: str, finish: str | None) -> dict[str, Any]:
    choice = {"index": at, "delta": {"content": text}, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "choices": [choice]}


def test_a_stream_that_is_cut_off_keeps_all_that_was_said(run: Run, server: EndpointServer) -> None:
    server.answers.clear()
    server.answers.append(Answer((piece(0, "42", "stop"), piece(1, "It is", None)), then="close"))
    done = run("-m", "lab", "--vote", "2", "--json", "How many?")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    samples = [(sample["text"], sample["finish_reason"]) for sample in document["vote"]["samples"]]
    assert samples == [("42", "stop"), ("It is", "error")]
    assert (document["text"], document["finish_reason"]) == ("42", "error")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_counts_what_is_complete(environment: dict[str, str], server: EndpointServer) -> None:
    server.answers.clear()
    said = (piece(0, "42", "stop"), piece(1, "It is", None), piece(2, "42", "stop"))
    server.answers.append(Answer(said, then="stall"))
    command = [sys.executable, "-m", "phichat", "ask", "-m", "lab", "--vote", "3", "--json", "hi"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        while not server.asked:
            time.sleep(0.02)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    document = json.loads(out)
    samples = [(sample["text"], sample["finish_reason"]) for sample in document["vote"]["samples"]]
    assert samples == [("42", "stop"), ("It is", "cancelled"), ("42", "stop")]
    assert document["finish_reason"] == "cancelled"
    assert b"Only 2 of 3 samples were complete. 2 of 2 samples agree (100 %): 42." in errors
