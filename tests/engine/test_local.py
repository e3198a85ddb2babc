"""The local backend with a real engine process, and with one that fails."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import psutil
import pytest

from phichat.cancel import CancelToken
from phichat.config.settings import EngineOptions
from phichat.engine.autotune.cpu_buffer_probe import ProbeCache, ProbeOutcome
from phichat.engine.autotune.tuning_cache import StaticTuning
from phichat.engine.ipc.connection import EnginePhase, EngineTimeouts, make_crash_error
from phichat.engine.ipc.process import EngineProcess
from phichat.engine.local import LocalBackend
from phichat.errors import (
    ContextOverflow,
    EngineCrashed,
    EngineError,
    EngineLoadFailed,
    EngineTimedOut,
    ModelDoesNotFit,
    PhichatError,
    TemplateError,
)
from phichat.events import ModelLoading, ModelReady, PromptProgress, ReasoningDelta, TextDelta, TurnFinished
from phichat.types import FinishReason, Message, Role, SamplingParams
from support.demo_model import embedded_model
from support.tiny_gguf import write_tiny_llama

GREEDY = SamplingParams(temperature=0.0, max_tokens=24)
HAIKU = [Message(Role.USER, "Write a haiku about the sea.")]
ENDLESS = SamplingParams(temperature=0.0, max_tokens=4000, stop=("\0",))


def backend(path: Path, folder: Path, deadlines: EngineTimeouts | None = None, **options: object) -> LocalBackend:
    engine = EngineOptions(**{"ctx_size": 2048, **options})  # type: ignore[arg-type]
    return LocalBackend(path.stem, path, engine, ProbeCache(folder / "engine.json"), deadlines)


def load(engine: LocalBackend, cancel: CancelToken | None = None) -> list[ModelLoading | ModelReady]:
    return list(engine.load(cancel or CancelToken()))


def ask(engine: LocalBackend, messages: list[Message], params: SamplingParams = GREEDY) -> TurnFinished:
    *_, last = engine.generate(messages, params, CancelToken())
    assert isinstance(last, TurnFinished)
    return last


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBackend]:
    made = backend(embedded_model(), tmp_path_factory.mktemp("engine"))
    load(made)
    yield made
    made.close()


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[LocalBackend]:
    made = backend(write_tiny_llama(tmp_path / "tiny.gguf"), tmp_path)
    load(made)
    yield made
    made.close()


def test_a_real_answer_streams(engine: LocalBackend) -> None:
    prompt = [Message(Role.USER, "What is 2 + 2? Answer with a number.")]
    events = list(engine.generate(prompt, GREEDY, CancelToken()))
    last = events[-1]
    assert isinstance(last, TurnFinished)
    assert "4" in last.text
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == last.text
    assert any(isinstance(event, PromptProgress) and event.done == event.total for event in events)
    assert last.usage.prompt_tokens == engine.count_tokens(prompt, CancelToken())
    assert last.timings.generation_s > 0


def test_greedy_and_seeded_answers_repeat(engine: LocalBackend) -> None:
    seeded = SamplingParams(temperature=1.5, seed=11, max_tokens=24)
    assert ask(engine, HAIKU).text == ask(engine, HAIKU).text
    first, second = ask(engine, HAIKU, seeded), ask(engine, HAIKU, seeded)
    assert (first.text, first.seed) == (second.text, 11)
    assert ask(engine, HAIKU, SamplingParams(temperature=1.5, seed=12, max_tokens=24)).text != first.text


def test_the_next_turn_reuses_the_cache(engine: LocalBackend) -> None:
    first = ask(engine, HAIKU)
    messages = [*HAIKU, Message(Role.ASSISTANT, first.text), Message(Role.USER, "Another one.")]
    second = ask(engine, messages)
    assert second.usage.cached_tokens >= first.usage.prompt_tokens
    engine.close()
    load(engine)
    assert ask(engine, messages).usage.cached_tokens == 0


def test_stop_strings_and_lengths(engine: LocalBackend) -> None:
    whole = ask(engine, HAIKU).text
    stop = whole[10:16]
    cut = ask(engine, HAIKU, SamplingParams(temperature=0.0, max_tokens=24, stop=(stop,)))
    assert (cut.text, cut.finish_reason) == (whole[: whole.index(stop)], FinishReason.STOP)
    short = ask(engine, HAIKU, SamplingParams(temperature=0.0, max_tokens=3))
    assert (short.usage.completion_tokens, short.finish_reason) == (3, FinishReason.LENGTH)


def test_reasoning_that_the_template_opens(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n"
    thinking = backend(write_tiny_llama(tmp_path / "t.gguf", template=template), tmp_path)
    load(thinking)
    events = list(thinking.generate(HAIKU, GREEDY, CancelToken()))
    thinking.close()
    assert any(isinstance(event, ReasoningDelta) for event in events)
    assert not any(isinstance(event, TextDelta) for event in events)


def test_a_prompt_beyond_the_context(tiny: LocalBackend) -> None:
    with pytest.raises(ContextOverflow) as caught:
        ask(tiny, [Message(Role.USER, "word " * 3000)])
    assert caught.value.n_ctx == 2048
    assert caught.value.prompt_tokens > 2048
    assert ask(tiny, HAIKU).text


def test_cancel_during_prefill_keeps_the_engine(engine: LocalBackend) -> None:
    cancel, pid = CancelToken(), engine.pid
    seen = []
    for event in engine.generate([Message(Role.USER, "word " * 1500)], GREEDY, cancel):
        seen.append(event)
        cancel.set()
    assert isinstance(seen[-1], TurnFinished)
    assert (seen[-1].finish_reason, seen[-1].text) == (FinishReason.CANCELLED, "")
    assert ask(engine, HAIKU).text
    assert engine.pid == pid


def test_cancel_while_generating_keeps_the_text_and_the_cache(engine: LocalBackend) -> None:
    cancel, said, asked = CancelToken(), "", [Message(Role.USER, "Write a haiku about the sea. " * 12)]
    for event in engine.generate(asked, ENDLESS, cancel):
        if isinstance(event, TextDelta):
            said += event.text
            cancel.set()
    assert isinstance(event, TurnFinished)
    assert (event.finish_reason, event.text) == (FinishReason.CANCELLED, said)
    assert ask(engine, asked).usage.cached_tokens == event.usage.prompt_tokens - 1


def test_cancel_while_loading_leaves_no_process(tmp_path: Path) -> None:
    stopped, cancel = backend(embedded_model(), tmp_path), CancelToken()
    before = set(psutil.Process().children())
    for _ in stopped.load(cancel):
        cancel.set()
    assert not set(psutil.Process().children()) - before


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT], ids=lambda number: number.name)
def test_a_dead_engine_is_one_error_and_the_next_prompt_works(tiny: LocalBackend, number: signal.Signals) -> None:
    seen = []
    with pytest.raises(EngineCrashed) as caught:
        for event in tiny.generate(HAIKU, ENDLESS, CancelToken()):
            if not seen:
                os.kill(tiny.pid, number)
            seen.append(event)
    assert isinstance(seen[-1], TurnFinished)
    assert seen[-1].finish_reason is FinishReason.ERROR
    assert "\n" not in str(caught.value)
    assert any(isinstance(event, ModelReady) for event in load(tiny))
    assert ask(tiny, HAIKU).text


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_hanging_engine_is_given_up(tmp_path: Path) -> None:
    stuck = backend(write_tiny_llama(tmp_path / "t.gguf"), tmp_path, EngineTimeouts(stall_s=0.5))
    load(stuck)
    os.kill(stuck.pid, signal.SIGSTOP)
    pid = stuck.pid
    with pytest.raises(EngineTimedOut, match="stopped responding"):
        ask(stuck, HAIKU)
    assert not psutil.pid_exists(pid)
    stuck.close()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_an_engine_that_does_not_read_is_given_up(tmp_path: Path) -> None:
    deaf = backend(write_tiny_llama(tmp_path / "t.gguf"), tmp_path, EngineTimeouts(stall_s=0.5))
    load(deaf)
    os.kill(deaf.pid, signal.SIGSTOP)
    with pytest.raises(EngineError):
        ask(deaf, [Message(Role.USER, "word " * 1_000_000)])


@pytest.mark.timing
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_an_engine_that_ignores_cancel_is_killed(tiny: LocalBackend) -> None:
    cancel = CancelToken()
    os.kill(tiny.pid, signal.SIGSTOP)
    Timer(0.1, cancel.set).start()
    started = time.monotonic()
    *_, last = tiny.generate(HAIKU, GREEDY, cancel)
    assert isinstance(last, TurnFinished)
    assert last.finish_reason is FinishReason.CANCELLED
    assert time.monotonic() - started < 5
    assert any(isinstance(event, ModelReady) for event in load(tiny))


def test_a_template_that_never_ends_is_given_up(tmp_path: Path) -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{{ messages }}"
    path = write_tiny_llama(tmp_path / "t.gguf", template=endless)
    with pytest.raises(EngineTimedOut, match="chat template"):
        load(backend(path, tmp_path, EngineTimeouts(template_s=1.0)))


def test_a_template_that_rejects_everything_is_reported(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "t.gguf", template="{{ raise_exception('not today') }}")
    with pytest.raises(TemplateError, match="not today"):
        load(backend(path, tmp_path))


def test_a_file_without_a_template_gets_one_and_a_notice(tmp_path: Path) -> None:
    bare = backend(write_tiny_llama(tmp_path / "t.gguf", vocab="spm", template=None), tmp_path)
    ready = load(bare)[-1]
    assert isinstance(ready, ModelReady)
    assert any("phi-3" in notice for notice in ready.notices)
    bare.close()


def test_a_context_beyond_training_is_a_notice_and_beyond_memory_an_error(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "t.gguf", context_length=512)
    longer = backend(path, tmp_path, ctx_size=1024)
    ready = load(longer)[-1]
    longer.close()
    assert isinstance(ready, ModelReady)
    assert any("512" in notice for notice in ready.notices)
    with pytest.raises(ModelDoesNotFit):
        load(backend(path, tmp_path, ctx_size=2**31 - 1))


def test_the_reason_of_a_failed_load_is_llama_cpps_own(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "t.gguf")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"blk.1.attn_q.weight", b"blk.1.attn_x.weight"))
    with pytest.raises(EngineLoadFailed, match=r"blk\.1\.attn_q\.weight"):
        load(backend(path, tmp_path))


CRASHES_IN_ITS_BUFFERS = """
import json, os, signal, sys
from phichat.engine.worker.__main__ import open_connection
from phichat.engine.worker.server import EngineServer
class Crashing:
    def __init__(self, connection):
        self.connection, self.close, self.crashes = connection, connection.close, False
    def recv_bytes(self, limit):
        content = self.connection.recv_bytes(limit)
        self.crashes = self.crashes or json.loads(content).get("extra_buffers", False)
        return content
    def send_bytes(self, content):
        self.connection.send_bytes(content)
        if self.crashes and b"WarmingUp" in content:
            os.kill(os.getpid(), signal.SIGSEGV)
server = EngineServer()
server.clients.add(Crashing(open_connection(int(sys.argv[1]))), buffered=False)
server.run()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_crash_in_cpu_buffer_types_is_probed_once(tmp_path: Path) -> None:
    path, verdicts = write_tiny_llama(tmp_path / "t.gguf"), ProbeCache(tmp_path / "engine.json")
    command = (sys.executable, "-c", CRASHES_IN_ITS_BUFFERS)
    for told in (True, False):
        wounded = LocalBackend(
            "t",
            path,
            EngineOptions(ctx_size=512),
            verdicts,
            start_process=lambda timeouts, spin: EngineProcess(timeouts, command, spin_count=spin),
        )
        ready = load(wounded)[-1]
        assert isinstance(ready, ModelReady)
        assert any("doctor" in notice for notice in ready.notices) == told
        assert ask(wounded, HAIKU).text
        wounded.close()
    assert [entry["verdict"] for entry in verdicts.load_entries().values()] == [ProbeOutcome.CRASHES]


def test_crash_messages() -> None:
    cases = [
        (-9, "", "was killed while loading"),
        (-11, "", "SIGSEGV"),
        (-6, "x.cpp:1: GGML_ASSERT(n > 0) failed", "GGML_ASSERT"),
        (-6, "terminate called after throwing an instance of 'std::bad_alloc'", "out of memory"),
        (1, "Traceback\nValueError: no", "ValueError: no"),
        (None, "", "The engine stopped while loading"),
    ]
    for code, stderr, expected in cases:
        error = make_crash_error(code, EnginePhase.LOADING, stderr)
        assert expected in str(error)
        assert "\n" not in str(error)
    assert [make_crash_error(code, EnginePhase.PREFILLING, "").is_cpu_fault for code in (-11, -4, -9, -6, 0)] == [
        True,
        True,
        False,
        False,
        False,
    ]


PARENT = """
import sys
from pathlib import Path
from phichat.config.settings import EngineOptions
from phichat.cancel import CancelToken
from phichat.engine.local import LocalBackend
from phichat.engine.autotune.cpu_buffer_probe import ProbeCache
from phichat.types import *
engine = LocalBackend("t", Path(sys.argv[1]), EngineOptions(ctx_size=2048), ProbeCache(Path(sys.argv[2])))
for _ in engine.load(CancelToken()): pass
print(engine.pid, flush=True)
for _ in engine.generate([Message(Role.USER, "word " * 1500)], SamplingParams(), CancelToken()): pass
"""


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(temperature=0.9, seed=5, max_tokens=24)])
def test_speculation_does_not_change_the_answer(tmp_path: Path, params: SamplingParams) -> None:
    text = "One two three four five six seven eight nine ten. " * 3
    prompt, texts = [Message(Role.USER, f"Repeat this word by word: {text}")], []
    for draft in ("off", "lookup"):
        engine = backend(embedded_model(), tmp_path, draft=draft)
        load(engine)
        texts.append([ask(engine, prompt, params).text for _ in range(2)])
        engine.close()
    assert texts[0] == texts[1]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the environment of a process")
def test_a_preferred_spin_count_reaches_the_engine(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf")
    engine = LocalBackend(
        "t", path, EngineOptions(ctx_size=512), ProbeCache(tmp_path / "engine.json"), tuning_source=StaticTuning(300)
    )
    load(engine)
    assert b"GOMP_SPINCOUNT=300" in Path(f"/proc/{engine.pid}/environ").read_bytes().split(b"\0")
    engine.close()


def test_no_engine_outlives_its_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(embedded_model()), str(tmp_path / "engine.json")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    until = time.monotonic() + 60
    while psutil.pid_exists(pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert not psutil.pid_exists(pid)


def test_a_failure_leaves_nothing_running(tmp_path: Path) -> None:
    before = set(psutil.Process().children())
    for content in (b"", b"GGUF", b"text"):
        path = tmp_path / "bad.gguf"
        path.write_bytes(content)
        with pytest.raises(PhichatError):
            load(backend(path, tmp_path))
    assert not set(psutil.Process().children()) - before


@pytest.mark.timing
def test_cancel_while_a_huge_prompt_is_tokenized(tmp_path: Path) -> None:
    engine, cancel = backend(embedded_model(), tmp_path), CancelToken()
    load(engine)
    Timer(0.1, cancel.set).start()
    started = time.monotonic()
    assert engine.count_tokens([Message(Role.USER, "a" * 8_000_000)], cancel) == 0
    assert time.monotonic() - started < 5
    engine.close()
