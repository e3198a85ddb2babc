"""`phichat ask` as a user runs it: a real process, a real model, real streams."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.demo_model import embedded_model, no_other_models, without_machine_remarks
from support.tiny_gguf import write_gguf, write_tiny_llama

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    own = {"PHICHAT_HOME": str(tmp_path / "home"), "PHICHAT_MODEL": str(embedded_model())}
    return {**os.environ, **no_other_models(tmp_path / "user"), **own}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    def start(*arguments: str, stdin: str = "", timeout: float = 60) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "phichat", *arguments]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=environment, timeout=timeout, encoding="utf-8"
        )
        done.stderr = without_machine_remarks(done.stderr)
        return done

    return start


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("phichat: ")
    assert ". " in lines[0], "the next step is missing"
    return lines[0]


def test_an_answer_is_all_there_is_on_stdout(run: Run) -> None:
    done = run("ask", "--temp", "0", "What is 2 + 2?", "Answer", "with a number.")
    assert (done.returncode, done.stderr) == (0, "")
    assert "4" in done.stdout
    assert done.stdout.endswith("\n")


def test_json(run: Run) -> None:
    done = run("ask", "--json", "--temp", "0", "--max-tokens", "5", "--seed", "3", "Count to ten.")
    document = json.loads(done.stdout)
    assert document["finish_reason"] == "length"
    assert document["usage"]["completion_tokens"] == 5
    assert set(document["timings"]) == {
        *("load_s", "prompt_s", "first_token_s", "generation_s", "tokens_per_second", "restore_s", "wait_s")
    }
    assert document["context"] == {"n_ctx": 8192, "dropped_turns": 0}
    assert (document["seed"], document["reasoning"]) == (3, "")
    assert len(document["conversation_id"]) == 14
    assert document["text"]


def test_the_ways_to_give_a_prompt(run: Run, tmp_path: Path) -> None:
    attached = tmp_path / "notes.py"
    attached.write_text("x = '```'\n")
    usual = ("ask", "--json", "--max-tokens", "1")
    words, piped = run(*usual, "a b"), run(*usual, stdin="a b")
    both = run(*usual, "-f", str(attached), "a b", stdin="piped text\n")
    tokens = [json.loads(done.stdout)["usage"]["prompt_tokens"] for done in (words, piped, both)]
    assert tokens[0] == tokens[1] < tokens[2]


def test_the_system_prompt_counts(run: Run) -> None:
    done = run("ask", "--temp", "0", "--max-tokens", "8", "-s", "You are a pirate named Bob.", "What is your name?")
    assert "aye" in done.stdout.lower()


def test_usage_extract_and_no_stream(run: Run) -> None:
    done = run("ask", "-x", "-u", "--no-stream", "--temp", "0", "--max-tokens", "60", "Write Python that prints hello.")
    assert done.stdout.splitlines()[0].startswith("print(")
    assert "```" not in done.stdout
    assert "tokens/s" in done.stderr


def test_reasoning_goes_to_stderr_unless_hidden(run: Run, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}<think>"
    model = str(write_tiny_llama(tmp_path / "t.gguf", template=template))
    usual = ("ask", "-m", model, "--max-tokens", "8", "--temp", "0")
    shown, hidden = run(*usual, "hello"), run(*usual, "-R", "hello")
    assert (shown.stdout.strip(), hidden.stdout.strip(), hidden.stderr) == ("", "", "")
    assert len(shown.stderr) > 8


def test_without_a_model_of_ones_own_the_embedded_one_says_so(environment: dict[str, str], run: Run) -> None:
    del environment["PHICHAT_MODEL"]
    done = run("ask", "--max-tokens", "1", "hi")
    assert done.returncode == 0
    assert "phichat pull phi-4-mini" in done.stderr


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    good = write_tiny_llama(folder / "good.gguf")
    files = {
        "text": (b"Once upon a time", "Once upon"),
        "empty": (b"", "empty"),
        "cut off": (good.read_bytes()[:-1000], "cut off"),
        "cut off in the header": (good.read_bytes()[:200], "cut off"),
    }
    made = {}
    for name, (content, said) in files.items():
        path = folder / f"{name}.gguf"
        path.write_bytes(content)
        made[name] = (path, said)
    vocabulary, embedder = folder / "vocabulary.gguf", folder / "embedder.gguf"
    write_gguf(vocabulary, {"tokenizer.ggml.model": "gpt2"}, architecture="phi3")
    write_gguf(embedder, {}, {"token_embd.weight": (4, 4)}, architecture="bert")
    (folder / "folder.gguf").mkdir()
    return {
        **made,
        "vocabulary": (vocabulary, "vocabulary only"),
        "embedder": (embedder, "embedding"),
        "folder": (folder / "folder.gguf", "directory"),
    }


def test_unusable_files_are_told_in_one_sentence(run: Run, tmp_path: Path) -> None:
    for path, said in bad_files(tmp_path).values():
        done = run("ask", "-m", str(path), "hi")
        assert done.returncode == 1
        assert said in one_sentence(done)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="modes do not bind root")
def test_an_unreadable_file(run: Run, tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "t.gguf")
    path.chmod(0)
    done = run("ask", "-m", str(path), "hi")
    assert done.returncode == 1
    assert "permission" in one_sentence(done).lower()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["ask", "-m", "/no/such.gguf", "hi"], 3),
        (["ask", "-m", "no-such-model", "hi"], 3),
        (["ask", "-o", "temperature", "abc", "hi"], 2),
        (["ask", "-o", "colour", "red", "hi"], 2),
        (["ask", "--n-gpu-layers", "some", "hi"], 2),
        (["ask", "--no-such-flag"], 2),
        (["ask"], 2),
        (["no-such-verb"], 2),
        ([], 2),
        (["chat"], 2),
        (["ask", "-f", "/no/such/file", "hi"], 1),
        (["ask", "--ctx-size", "2000000000", "hi"], 4),
        (["ask", "--ctx-size", "8", "What is the meaning of it all?"], 5),
    ],
)
def test_exit_codes(run: Run, arguments: list[str], code: int) -> None:
    done = run(*arguments)
    assert done.returncode == code
    one_sentence(done)
    assert done.stdout == ""


def test_the_prompt_that_does_not_fit_is_told_with_both_numbers(run: Run) -> None:
    done = run("ask", "--ctx-size", "256", stdin="word " * 1000)
    assert done.returncode == 5
    assert "256" in one_sentence(done)


def test_binary_attachments_are_refused(run: Run, tmp_path: Path) -> None:
    for content in (b"\x00\x01", b"\xff\xfe\xfd"):
        file = tmp_path / "picture.png"
        file.write_bytes(content)
        done = run("ask", "-f", str(file), "hi")
        assert done.returncode == 1
        one_sentence(done)


def test_names_of_files_steer_no_terminal(run: Run) -> None:
    assert "\x1b" not in run("ask", "-m", "/\x1b[31m.gguf", "hi").stderr


def test_a_model_that_writes_control_bytes_steers_no_terminal(run: Run, tmp_path: Path) -> None:
    # Random weights over a vocabulary of all bytes write every kind of byte when they are hot enough.
    model = str(write_tiny_llama(tmp_path / "t.gguf"))
    for flags in ([], ["--json"]):
        done = run(
            "ask", "-m", model, "--temp", "50", "--top-k", "0", "--seed", "1", "--max-tokens", "900", *flags, "x"
        )
        shown = done.stdout.replace("\n", "").replace("\t", "")
        assert len(shown) > 300
        assert not any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in shown)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_keeps_what_was_said(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "phichat", "ask", "--temp", "0", "Tell me a very long story about the sea."]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        said = process.stdout.read(40)
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert (said + rest).endswith(b"\n")
    assert without_machine_remarks(errors.decode()) == ""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_before_the_first_word(environment: dict[str, str]) -> None:
    for delay in (0.05, 0.15, 0.3):
        command = [sys.executable, "-m", "phichat", "ask", "word " * 3000]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=120)
        if delay < 0.1 and b"Traceback" in errors:  # the interpreter itself was still starting
            continue
        assert b"Traceback" not in errors
        assert process.returncode in (130, -signal.SIGINT), errors


def test_a_reader_that_leaves_is_no_error(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "phichat", "ask", "--temp", "0", "Tell me a very long story."]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.wait(120) == 0
        assert without_machine_remarks(process.stderr.read().decode()) == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a Linux device")
@pytest.mark.parametrize("arguments", [["--help"], ["ask", "--max-tokens", "2", "hi"]])
def test_a_full_disk_is_a_sentence(environment: dict[str, str], arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "phichat", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=environment,
            check=False,
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_packages_that_the_code_needs_are_told_with_how_to_install_them(run: Run) -> None:
    usual = ("--temp", "0", "--max-tokens", "40", "Write a Python function that downloads a web page")
    done = run("ask", "--strict", *usual)
    assert "import requests" in done.stdout
    assert done.returncode == 6
    warning = done.stderr.splitlines()[-1]
    assert warning.startswith("phichat: needs requests (")
    code = json.loads(run("ask", "--json", *usual).stdout)["code"]
    assert [package["module"] for package in code["blocks"][0]["non_stdlib"]] == ["requests"]
