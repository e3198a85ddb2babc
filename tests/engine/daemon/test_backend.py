"""Engines that stay: found again, shared, replaced when they die or hang, and gone when they should be."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from phichat.cancel import CancelToken
from phichat.engine.daemon.running_engines import stop_idle
from phichat.errors import EngineCrashed
from phichat.events import TextDelta, TurnFinished
from support.daemon import ENDLESS, HELLO, Home, answer, becomes, home, load
from support.demo_model import embedded_model
from support.tiny_gguf import write_tiny_llama

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="has no such signals, nor sockets with a path")


@pytest.fixture
def at_home(tmp_path: Path) -> Iterator[Home]:
    with home(tmp_path / "cache") as made:
        yield made


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_tiny_llama(path)
    return path


def test_the_second_client_finds_the_engine_of_the_first(at_home: Home) -> None:
    first, second = at_home.backend(embedded_model()), at_home.backend(embedded_model())
    started = load(first)
    said = answer(first).text
    first.close()
    found = load(second)
    assert started and found
    assert found.model == started.model
    assert found.load_s < started.load_s
    assert (answer(second).text, second.n_ctx, len(at_home.pids())) == (said, 512, 1)
    second.close()


def test_ten_cold_starts_at_once_give_one_engine(at_home: Home, tiny: Path) -> None:
    engines = [at_home.backend(tiny) for _ in range(10)]
    said: list[str] = []

    def run(number: int) -> None:
        load(engines[number])
        said.append(answer(engines[number]).text)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(said) == 10
    assert len(set(said)) == 1
    assert len(at_home.pids()) == 1
    assert [engine for engine in engines if engine._fallback] == []
    for engine in engines:
        engine.close()


def test_another_model_or_other_options_are_another_engine(at_home: Home, tiny: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    shutil.copy(tiny, other)
    link = tmp_path / "link.gguf"
    link.symlink_to(tiny)
    assert at_home.address(link) == at_home.address(tiny)
    at_home.used_once(tiny)
    load(two := at_home.backend(other))
    assert len(at_home.pids()) == 2
    two.close()


@posix_only
def test_an_engine_that_died_unused_is_replaced_unseen(at_home: Home, tiny: Path) -> None:
    first = at_home.used_once(tiny)
    os.kill(first, signal.SIGKILL)
    engine = at_home.backend(tiny)
    load(engine)
    before = answer(engine)
    (second,) = at_home.pids()
    os.kill(second, signal.SIGKILL)
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(second).wait(2)
    # Not even who had it loaded notices.
    assert answer(engine).text == before.text
    assert len({first, second, *at_home.pids()}) == 3
    engine.close()


@posix_only
def test_an_engine_that_dies_in_an_answer_is_one_error_and_the_next_prompt_works(at_home: Home) -> None:
    engine = at_home.backend(embedded_model())
    load(engine)
    events = []
    with pytest.raises(EngineCrashed):
        for event in engine.generate(HELLO, ENDLESS, CancelToken()):
            events.append(event)
            if isinstance(event, TextDelta) and len(events) < 4:
                os.kill(at_home.pids()[0], signal.SIGKILL)
    last = events[-1]
    assert isinstance(last, TurnFinished)
    assert last.text
    assert load(engine)
    assert answer(engine).text
    engine.close()


@posix_only
def test_a_stopped_engine_is_replaced(at_home: Home, tiny: Path) -> None:
    stopped = at_home.used_once(tiny)
    os.kill(stopped, signal.SIGSTOP)
    engine = at_home.backend(tiny)
    load(engine)
    assert answer(engine).text
    assert stopped not in at_home.pids()
    assert not engine._fallback
    engine.close()


@posix_only
def test_a_socket_that_nobody_listens_at_blocks_nobody(at_home: Home, tiny: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(at_home.address(tiny).socket_path)
    assert at_home.used_once(tiny)


def test_who_waits_for_a_starter_that_dies_starts_anew(at_home: Home) -> None:
    script = (
        "import sys; from pathlib import Path; from support.daemon import Home, load\n"
        "home = Home(Path(sys.argv[1])); load(home.backend(Path(sys.argv[2])))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", script, str(at_home.cache), str(embedded_model())]
    with subprocess.Popen(command, env=environment) as starter:
        assert becomes(lambda: bool(at_home.engines.list_addresses()))
        engine = at_home.backend(embedded_model())
        killer = threading.Timer(0.1, starter.kill)
        killer.start()
        load(engine)
        killer.join()
    assert answer(engine).text
    engine.close()


def test_it_leaves_when_nobody_came_for_a_while(at_home: Home, tiny: Path) -> None:
    at_home.used_once(tiny, keep_alive=0.5)
    assert becomes(lambda: not at_home.pids())
    assert at_home.engines.list_addresses() == []


def test_it_stays_while_a_client_does(at_home: Home, tiny: Path) -> None:
    engine = at_home.backend(tiny, keep_alive=0.5)
    load(engine)
    assert not becomes(lambda: not at_home.pids(), within_s=2.5)
    engine.close()
    assert becomes(lambda: not at_home.pids())


def test_it_leaves_when_the_model_file_changes_and_the_new_one_is_loaded(at_home: Home, tiny: Path) -> None:
    was = at_home.used_once(tiny)
    content = tiny.read_bytes()
    tiny.unlink()
    tiny.write_bytes(content)
    # A client that comes before the daemon has noticed does not get the old model either. A daemon that is too busy
    # to answer in time leaves the client to an engine of its own, so on a busy machine the next try finds the new one.
    assert becomes(lambda: at_home.used_once(tiny) != was)
    os.utime(tiny, (1, 1))
    assert becomes(lambda: not at_home.pids())


@posix_only
@pytest.mark.parametrize("how", ["terminated", "without its socket"])
def test_it_leaves_when(at_home: Home, tiny: Path, how: str) -> None:
    process = psutil.Process(at_home.used_once(tiny))
    address = at_home.address(tiny)
    if how == "terminated":
        process.terminate()
    else:
        Path(address.socket_path).unlink()
    assert becomes(lambda: has_ended(process))
    assert at_home.engines.list_addresses() == []


def test_freeing_the_memory_ends_the_engine_only_of_who_is_alone(at_home: Home, tiny: Path) -> None:
    one, two = at_home.backend(tiny), at_home.backend(tiny)
    load(one)
    load(two)
    one.unload()
    assert len(at_home.pids()) == 1
    assert answer(two).text
    two.unload()
    assert at_home.pids() == []


def test_idle_engines_make_room_for_another_model(at_home: Home, tiny: Path, tmp_path: Path) -> None:
    used, idle = tmp_path / "used.gguf", tmp_path / "idle.gguf"
    for path in (used, idle):
        shutil.copy(tiny, path)
    in_use = at_home.backend(used)
    load(in_use)
    unused = at_home.backend(idle)
    load(unused)
    unused.close()
    assert becomes(lambda: stop_idle(at_home.engines, at_home.address(tiny)))
    assert len(at_home.pids()) == 1
    assert not stop_idle(at_home.engines, None)
    in_use.close()


@posix_only
@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root can become somebody else")
def test_somebody_else_cannot_come_in_even_where_the_files_let_them(at_home: Home, tiny: Path) -> None:
    at_home.used_once(tiny)
    address = at_home.address(tiny)
    script = (
        "import os, socket, sys; from multiprocessing.connection import Connection\n"
        "os.setuid(int(sys.argv[2])); ours = socket.socket(socket.AF_UNIX); ours.settimeout(5)\n"
        "try: ours.connect(sys.argv[1])\n"
        "except PermissionError: sys.exit('closed')\n"
        "ours.settimeout(None)\n"
        "there = Connection(ours.detach())\n"
        "try: there.send_bytes(b'{\"type\": \"GetStatus\"}'); there.recv_bytes(); sys.exit('let in')\n"
        "except (EOFError, OSError): sys.exit('refused')\n"
    )

    def tried(uid: int) -> str:
        command = [sys.executable, "-c", script, address.socket_path, str(uid)]
        return subprocess.run(command, capture_output=True, text=True).stderr.strip()

    assert tried(65534) == "closed"
    closed = [
        path for path in (Path(address.socket_path), *Path(address.socket_path).parents) if not path.stat().st_mode & 1
    ]
    modes = {path: path.stat().st_mode for path in closed}
    try:
        for path in closed:
            path.chmod(modes[path] | 0o777)
        assert tried(65534) == "refused"
        assert tried(0) == "let in"
    finally:
        for path in closed:
            path.chmod(modes[path])
