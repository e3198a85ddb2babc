"""`phichat pull` and `search` as a user runs them, against a stand-in for the hub."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.fake_hub import Fault, Repository, StandIn, stand_in
from support.tiny_gguf import write_tiny_llama

Run = Callable[..., subprocess.CompletedProcess[str]]
NAME, FILE = "someone/tiny-GGUF", "tiny-Q4_K_M.gguf"
LARGE, LARGE_FILE, LARGE_SIZE = "someone/large-GGUF", "large-Q4_K_M.gguf", 24_000_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StandIn]:
    tiny = write_tiny_llama(tmp_path / "tiny.gguf")
    with stand_in() as running:
        running.repositories[NAME] = Repository({FILE: tiny})
        running.repositories[LARGE] = Repository({LARGE_FILE: tiny.read_bytes() + os.urandom(LARGE_SIZE)})
        yield running


@pytest.fixture
def environment(tmp_path: Path, server: StandIn) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    folders = {"PHICHAT_HOME": str(tmp_path / "home"), "HF_HOME": str(tmp_path / "hf")}
    return {**kept, **folders, "HF_ENDPOINT": server.url}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    def start(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "phichat", *arguments]
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**environment, **more},
            timeout=60,
            encoding="utf-8",
        )

    return start


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert ". " in lines[0], "the next step is missing"
    return lines[0]


def test_json_ends_with_what_is_there_now(run: Run, server: StandIn) -> None:
    done = run("pull", NAME, "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    size = server.repositories[NAME].files[FILE].stat().st_size  # type: ignore[union-attr]
    assert done.returncode == 0
    last = events[-1]
    assert (last["event"], last["size"], last["fetched"]) == ("done", size, size)
    assert last["sha256"] == server.sha256(server.repositories[NAME].files[FILE])
    assert Path(last["path"]).name == FILE
    again = run("pull", NAME, "--json")
    assert json.loads(again.stdout.splitlines()[-1])["fetched"] == 0
    asked = len(server.asked)
    offline = run("pull", NAME, "--offline")
    assert (offline.returncode, len(server.asked)) == (0, asked)
    assert "already downloaded and verified" in offline.stderr
    listed = json.loads(run("list", "--json").stdout)
    assert last["sha256"] in [model["sha256"] for model in listed]


def test_people_are_told_what_is_to_come_before_it_comes(run: Run) -> None:
    done = run("pull", NAME)
    assert (done.returncode, done.stdout) == (0, "")
    said = done.stderr.splitlines()
    assert "licence mit" in said[0]
    assert "fits this machine" in said[1]
    assert "\x1b" not in done.stderr
    assert "downloaded and verified: " in said[-1]


def test_mistakes_are_one_sentence_each(run: Run, server: StandIn, tmp_path: Path) -> None:
    server.repositories["a/none"] = Repository({"model.safetensors": b"x"})
    server.repositories["a/several"] = Repository({"x-Q4_K_M.gguf": b"x", "y-Q4_K_M.gguf": b"y"})
    server.repositories["a/gated"] = Repository({"x-Q4_K_M.gguf": b"x"}, gated=True)
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    for arguments, more, code, said in (
        (["phi-5"], {}, 3, "phi-1.5"),
        (["no/such"], {}, 1, "no repository"),
        (["a/none"], {}, 1, "no GGUF"),
        (["a/several"], {}, 1, "x-Q4_K_M.gguf, y-Q4_K_M.gguf"),
        (["a/gated"], {}, 1, "hf auth login"),
        ([NAME], {"HF_ENDPOINT": "http://127.0.0.1:9"}, 1, "cannot be reached"),
        ([NAME], {"HF_HUB_OFFLINE": "1"}, 1, "offline"),
        ([NAME], {"HF_HUB_CACHE": str(blocked)}, 1, "cannot be written"),
        (["no/such\x1b[31m"], {}, 2, "is not a model"),
        (["./no.gguf"], {}, 3, "No such file"),
    ):
        done = run("pull", *arguments, **more)
        assert done.returncode == code, done.stderr
        assert said in one_sentence(done)
        assert "\x1b" not in done.stderr


def test_what_does_not_fit_is_not_downloaded_unless_it_is_wanted(run: Run, server: StandIn, tmp_path: Path) -> None:
    huge = write_tiny_llama(tmp_path / "huge.gguf", metadata={"llama.attention.key_length": 1 << 30})
    server.repositories[NAME] = Repository({FILE: huge})
    done = run("pull", NAME)
    assert done.returncode == 4
    assert "--force" in done.stderr
    assert not list(tmp_path.glob("hf/hub/*/blobs/*"))
    assert run("pull", NAME, "--force").returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_kill_and_ctrl_c_lose_nothing(environment: dict[str, str], run: Run, server: StandIn, tmp_path: Path) -> None:
    server.rate = 3e6  # so slow that most of the file is left when the signal comes, on a busy machine too
    for number in (signal.SIGKILL, signal.SIGINT):
        before = server.sent
        command = [sys.executable, "-m", "phichat", "pull", LARGE]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
            while server.sent < before + 1_500_000 and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(number)
            _, errors = process.communicate(timeout=120)
        assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
        assert b"Traceback" not in errors
    server.rate = 0
    done = run("pull", LARGE, "--json")
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["event"], done.returncode) == ("done", 0)
    size = last["size"]
    assert size <= server.sent < size + 2_000_000
    assert [path.name for path in tmp_path.glob("hf/hub/*/blobs/*")] == [last["sha256"]]


def test_two_processes_share_one_download(environment: dict[str, str], server: StandIn) -> None:
    server.rate = 15e6
    command = [sys.executable, "-m", "phichat", "pull", LARGE, "--json"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as one,
        subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as two,
    ):
        ends = [process.communicate(timeout=60)[0].splitlines()[-1] for process in (one, two)]
    fetched = sorted(json.loads(end)["fetched"] for end in ends)
    assert (fetched[0], server.sent) == (0, fetched[1])


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_a_disk_that_fills_up_keeps_what_came(environment: dict[str, str], run: Run) -> None:
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, resource.RLIM_INFINITY)); "
        "from phichat.cli.app import run_command_line; sys.exit(run_command_line(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "pull", LARGE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "cannot be this large" in done.stderr.splitlines()[-1]
    last = json.loads(run("pull", LARGE, "--json").stdout.splitlines()[-1])
    assert last["fetched"] <= last["size"] - 9_000_000


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX terminals")
def test_a_terminal_gets_a_bar(environment: dict[str, str], server: StandIn) -> None:
    server.rate = 20e6
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "phichat", "pull", LARGE]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=terminal, env=environment) as process:
        os.close(terminal)
        seen = b""
        try:
            while piece := os.read(controller, 4096):
                seen += piece
        except OSError:
            pass
        assert process.wait(30) == 0
    os.close(controller)
    assert b"[####" in seen
    assert b"MB/s" in seen
    assert b" left" in seen


def test_a_path_is_used_where_it_is(run: Run, tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "mine.gguf")
    done = run("pull", str(path))
    assert done.returncode == 0
    assert "needs no download" in done.stderr


def test_fit_reads_the_header_of_what_is_not_here(run: Run, server: StandIn, tmp_path: Path) -> None:
    document = json.loads(run("fit", LARGE, "--json").stdout)
    assert document["fits"] is True
    assert server.sent < 3_000_000
    assert not list(tmp_path.glob("hf/hub/*/blobs/*"))


def test_search_tells_sizes_and_whether_they_fit(run: Run, server: StandIn) -> None:
    server.repositories["b/tiny-two"] = Repository({"x-Q4_K_M.gguf": b"x", "y-Q4_K_M.gguf": b"y"}, downloads=99)
    hits = json.loads(run("search", "tiny", "--json").stdout)
    assert [hit["repository"] for hit in hits] == ["b/tiny-two", NAME]
    assert (hits[1]["file"], hits[1]["quantization"], hits[1]["fits"]) == (FILE, "Q4_K_M", True)
    assert hits[0]["size"] is None
    shown = run("search", "tiny")
    assert NAME in shown.stdout
    assert "\x1b" not in shown.stdout
    assert run("search", "tiny", HF_ENDPOINT="http://127.0.0.1:9").returncode == 1


def test_a_server_that_never_recovers_is_one_sentence_and_loses_nothing(run: Run, server: StandIn) -> None:
    server.faults.extend([None, Fault("close", after=3_000_000), Fault("status", status=404)])
    server.faults.extend([Fault("status", status=429, retry_after="4000")] * 3)
    done = run("pull", LARGE)
    assert done.returncode == 1
    assert "asks to wait 67 minutes" in done.stderr.splitlines()[-1]
    server.faults.clear()
    assert json.loads(run("pull", LARGE, "--json").stdout.splitlines()[-1])["fetched"] < LARGE_SIZE - 2_000_000
