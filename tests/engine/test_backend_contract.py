"""The same scenarios on a model in a process of our own and on the same model behind a real server."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from phichat.cancel import CancelToken
from phichat.chat.context_window import Turn, TurnHistory
from phichat.chat.conversation import Conversation
from phichat.chat.pipeline import TurnPipeline
from phichat.code_report import TrainingScope
from phichat.config.endpoints import Endpoint, EndpointModel
from phichat.config.settings import EngineOptions
from phichat.engine.autotune.cpu_buffer_probe import ProbeCache
from phichat.engine.backend import Backend
from phichat.engine.local import LocalBackend
from phichat.engine.remote.backend import RemoteBackend
from phichat.errors import ContextOverflow
from phichat.events import CodeChecked, ModelReady, ReasoningDelta, TextDelta, TurnFinished, TurnStarted
from phichat.transcript.export.markdown import write_markdown
from phichat.transcript.recorder import Recorder
from phichat.transcript.store import TranscriptStore
from phichat.types import FinishReason, SamplingParams
from support.demo_model import embedded_model, no_other_models

GREEDY = SamplingParams(temperature=0.0, max_tokens=48)


def _others(model: Path) -> list[str]:
    """llama-cpp-python's own server."""
    return ["llama_cpp.server", "--model", str(model), "--model_alias", "smol", "--n_ctx", "1024"]


def _ours(model: Path) -> list[str]:
    """What phichat serves itself."""
    return ["phichat", "serve", "--model", str(model), "--ctx-size", "1024"]


def _served(folder: Path, command: Callable[[Path], list[str]]) -> Iterator[Backend]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {**os.environ, **no_other_models(folder / "user"), "PHICHAT_HOME": str(folder / "home")}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command(embedded_model()), "--host", "127.0.0.1", "--port", str(port)],
            stdout=log,
            stderr=log,
            env=own,
        )
    try:
        until = time.monotonic() + 60
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < until, (folder / "server.log").read_text()
                time.sleep(0.1)
        yield RemoteBackend(EndpointModel(Endpoint("lab", f"http://127.0.0.1:{port}/v1"), ""), "", ("temperature",))
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module", params=["local", "served", "served by phichat"])
def backend(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    folder = tmp_path_factory.mktemp("backend")
    if request.param != "local":
        yield from _served(folder, _ours if request.param == "served by phichat" else _others)
        return
    made = LocalBackend("smol", embedded_model(), EngineOptions(ctx_size=1024), ProbeCache(folder / "engine.json"))
    yield made
    made.close()


def turn(
    backend: Backend,
    prompt: str,
    params: SamplingParams = GREEDY,
    *,
    system: str | None = None,
    before: Sequence[Turn] = (),
    **more: Any,
) -> list[Any]:
    return list(TurnPipeline(backend, **more).run(TurnHistory(system, before, prompt), params, CancelToken()))


def test_stream(backend: Backend) -> None:
    events = turn(backend, "What is 2 + 2? Answer with a number.")
    assert isinstance(events[0], TurnStarted)
    pieces = [event.text for event in events if isinstance(event, TextDelta)]
    assert len(pieces) > 1
    assert "".join(pieces) == events[-1].text
    assert "4" in events[-1].text
    assert events[-1].finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
    short = turn(backend, "Count to ten.", SamplingParams(temperature=0.0, max_tokens=2))[-1]
    assert short.finish_reason is FinishReason.LENGTH


def test_cancel(backend: Backend) -> None:
    conversation, cancel, said = Conversation(lambda: backend), CancelToken(), ""
    for event in conversation.send("Tell me a very long story.", SamplingParams(temperature=0.0), cancel):
        if isinstance(event, TextDelta):
            said += event.text
            cancel.set()
    assert isinstance(event, TurnFinished)
    assert (event.finish_reason, event.text) == (FinishReason.CANCELLED, said)
    assert said
    *_, finished = conversation.send("Go on.", GREEDY, CancelToken())
    assert isinstance(finished, TurnFinished)
    assert finished.text


def test_system_prompt(backend: Backend) -> None:
    asked = "Who are you?"
    system = "You are a French teacher named Claire. Introduce yourself as Claire."
    assert "Claire" in turn(backend, asked, system=system)[-1].text
    assert "Claire" not in turn(backend, asked)[-1].text


def test_overflow(backend: Backend) -> None:
    events: list[Any] = []
    with pytest.raises(ContextOverflow) as raised:
        for event in Conversation(lambda: backend).send("word " * 2000, GREEDY, CancelToken()):
            events.append(event)
    assert events[-1].finish_reason is FinishReason.ERROR
    assert raised.value.n_ctx == 1024
    assert raised.value.prompt_tokens > 1024


def test_code_warning(backend: Backend) -> None:
    scope = TrainingScope(("python",), ("typing", "math"))
    before = [Turn("Show a line of Python.", "```python\nimport numpy\n```")] * 2
    events = turn(backend, "Show a line of Python.", before=before, training_scope=scope)
    reports = [event.report for event in events if isinstance(event, CodeChecked)]
    assert reports
    assert reports[-1].warnings


def test_transcript_and_export(backend: Backend, tmp_path: Path) -> None:
    recorder = Recorder(lambda: TranscriptStore.open_file(tmp_path / "logs.db"))
    backend.close()
    finished = turn(backend, "Say hello.", system="Be brief.", recorder=recorder)[-1]
    recorder.close()
    store = TranscriptStore.open_file(tmp_path / "logs.db")
    kept = store.get_conversation(recorder.conversation_id or "")
    (only,) = kept.get_branch()
    assert (only.prompt, only.text, only.system) == ("Say hello.", finished.text, "Be brief.")
    assert only.model is not None
    assert only.model.name in ("smol", "lab/smol", "lab/smollm2-135m")
    exported = "".join(write_markdown([kept]))
    assert only.text.splitlines()[0] in exported
    assert only.model.name in exported
    store.close()


def test_reasoning(backend: Backend) -> None:
    before = [Turn(f"What is {n} + 1?", f"<think>That is easy.</think>It is {n + 1}.") for n in (2, 3, 4, 6)]
    events = turn(backend, "What is 7 + 1?", before=before)
    assert any(isinstance(event, ReasoningDelta) for event in events)
    assert "easy" in events[-1].reasoning
    assert "think" not in events[-1].text
    assert events[-1].text


def test_one_model_ready(backend: Backend) -> None:
    backend.close()
    both = [*turn(backend, "Hi."), *turn(backend, "Hi again.")]
    assert sum(isinstance(event, ModelReady) for event in both) == 1
