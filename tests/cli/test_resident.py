"""`ask` with an engine that stays, and `ps` and `stop`, as a user runs them."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from phichat.engine.daemon.registry import DaemonRegistry
from phichat.engine.daemon.running_engines import list_running, stop_engine
from support.demo_model import embedded_model, no_other_models

Run = Callable[..., subprocess.CompletedProcess[str]]

ASK = ("ask", "--json", "--temp", "0", "--max-tokens", "5", "--ctx-size", "512")


@pytest.fixture
def run() -> Iterator[Run]:
    with tempfile.TemporaryDirectory(prefix="phichat-") as folder:
        own = {"PHICHAT_HOME": folder, "PHICHAT_MODEL": str(embedded_model()), "PHICHAT_KEEP_ALIVE": "1m"}
        environment = {**os.environ, **no_other_models(Path(folder)), **own}

        def start(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "phichat", *arguments]
            return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)

        yield start
        engines = DaemonRegistry.for_cache(Path(folder, "cache"))
        assert engines is not None
        for one in list_running(engines):
            stop_engine(one.address)
        assert list(list_running(engines)) == []


def listed(run: Run) -> list[dict[str, object]]:
    documents: list[dict[str, object]] = json.loads(run("ps", "--json").stdout)
    return documents


def test_the_second_question_finds_the_model_awake(run: Run) -> None:
    cold, warm = (json.loads(run(*ASK, "Count to ten.").stdout) for _ in range(2))
    assert warm["text"] == cold["text"]
    assert warm["timings"]["load_s"] < cold["timings"]["load_s"]
    (engine,) = listed(run)
    assert {"pid", "model", "memory", "idle_s", "expires_at"} <= set(engine)
    assert engine["model"] == "smollm2-135m"
    assert isinstance(engine["memory"], int)
    assert str(engine["expires_at"]).endswith("Z")
    assert "smollm2-135m" in run("ps").stdout


def test_stop_ends_them_and_is_content_where_none_is(run: Run) -> None:
    run(*ASK, "Hi")
    assert len(listed(run)) == 1
    assert (run("stop", "phi-4-mini").returncode, len(listed(run))) == (0, 1)
    done = run("stop", str(embedded_model()))
    assert (done.returncode, listed(run)) == (0, [])
    assert done.stderr.startswith("phichat: Stopped smollm2-135m")
    again = run("stop")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "phichat: No engine is running.\n")


def test_nothing_stays_where_nothing_shall(run: Run) -> None:
    assert run(*ASK, "--keep-alive", "0", "Hi").returncode == 0
    assert listed(run) == []
    refused = run(*ASK, "--keep-alive", "soon", "Hi")
    assert refused.returncode == 2
    assert "keep_alive" in refused.stderr or "keep-alive" in refused.stderr
