"""Two hundred faults of a server, each against a `phichat ask` in a process of its own.

    python stress/remote_faults.py [-N 200]

Of each: the exit code, one sentence with a next step on stderr, what was said before the fault on stdout, and
nothing of the key in the output, in `--debug`'s traceback, or in any file that is left.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))

from common import environment, phichat, say, table

from support.fake_openai_server import KEY, Answer, chunk, serving, usage

NOW = {"Retry-After": "0"}


@dataclass(frozen=True)
class Fault:
    """code: the exit code it should have. says: what the sentence holds. keeps: 0 where no text comes before it."""

    name: str
    make: Callable[[tuple[dict[str, object], ...], random.Random], Answer]
    says: str
    keeps: int = 1
    code: int = 1
    https: bool = False
    wrong_key: bool = False


def _error(message: str) -> dict[str, object]:
    return {"error": {"message": message, "type": "server_error"}}


def _refusing(status: int, message: str) -> Answer:
    return Answer(status=status, body=_error(message), headers=NOW)


def _page(status: int) -> Answer:
    return Answer(status=status, body=b"<html>A page", kind="text/html", headers=NOW)


def _garbage(random_: random.Random, most: int) -> bytes:
    return bytes(random_.randrange(most) for _ in range(900))


ENDED = (chunk("stop"), usage(5, 5))
HUGE = b"data: " + b"x" * (6 << 20)
FULL = "maximum context length is 512 tokens"

FAULTS = (
    Fault("reset before the stream", lambda said, r: Answer(then="reset-before"), "closed the connection", 0),
    Fault("reset in the stream", lambda said, r: Answer(said, then="reset"), "cut its answer short"),
    Fault("end in the stream", lambda said, r: Answer(said, then="close"), "cut its answer short"),
    Fault("reset after the stream", lambda said, r: Answer((*said, *ENDED), then="reset"), "", code=0),
    Fault("429", lambda said, r: _refusing(429, "too many"), "accepts no more requests", 0),
    Fault("503", lambda said, r: _refusing(503, "loading"), "status 503", 0),
    Fault("bad JSON", lambda said, r: Answer((*said, b"data: {" + _garbage(r, 10) + b"\n\n")), "not a JSON object"),
    Fault("bad SSE", lambda said, r: Answer((_garbage(r, 256),), then="close"), "other than a chat completion", 0),
    Fault("slow loris", lambda said, r: Answer(said, then="drip"), "sent nothing for"),
    Fault("silence", lambda said, r: Answer(said, then="stall"), "sent nothing for"),
    Fault("HTML error page", lambda said, r: _page(502), "status 502", 0),
    Fault("HTML login page", lambda said, r: _page(200), "web page", 0),
    Fault("wrong key", lambda said, r: Answer(said), "rejected the key", 0, wrong_key=True),
    Fault("TLS error", lambda said, r: Answer(said), "No secure connection", 0, https=True),
    Fault("huge line", lambda said, r: Answer((*said, HUGE)), "more than any answer needs"),
    Fault("error in the stream", lambda said, r: Answer((*said, _error(f"CUDA error {KEY}"))), "reported an error"),
    Fault("unknown model", lambda said, r: _refusing(404, "no model tiny"), "no model tiny", 0, code=3),
    Fault("prompt too long", lambda said, r: _refusing(400, FULL), "holds 512", 0, code=5),
    Fault("content filter", lambda said, r: Answer((*said, chunk("content_filter"))), "content filter"),
    Fault("key in a refusal", lambda said, r: _refusing(400, f"odd {KEY}"), "rejected the request", 0),
)


def meet(fault: Fault, seed: int) -> list[str]:
    """What was not as it should be."""
    random_ = random.Random(seed)
    words = [random_.choice(("Once ", "upon ", "a ", "time ", "naïve ", "日本 ", "🙂 ")) for _ in range(seed % 9 + 1)]
    said = tuple(chunk(content=word) for word in words)
    text = "".join(words).strip() if fault.keeps else ""
    with serving(fault.make(said, random_)) as server, tempfile.TemporaryDirectory() as folder:
        server.key = "another" if fault.wrong_key else KEY
        url = server.url.replace("http:", "https:") if fault.https else server.url
        # On a busy machine this server may itself take seconds to say a word.
        patience_s = 4 if "sent nothing" in fault.says else 30
        env = environment(Path(folder)) | {"LAB_KEY": KEY, "PYTHONIOENCODING": "utf-8", "OPENAI_LOG": ""}
        config = subprocess.run(phichat("path", "config"), env=env, capture_output=True, text=True, check=True)
        place = Path(config.stdout.strip())
        place.mkdir(parents=True, exist_ok=True)
        (place / "config.toml").write_text(
            f'[endpoints.lab]\nbase_url = "{url}"\napi_key_env = "LAB_KEY"\nmodel = "tiny"\ntimeout = {patience_s}\n'
        )
        debug = ["--debug"] if seed % 4 == 3 else []
        done = subprocess.run(
            phichat("ask", "-m", "lab", *debug, "Hello?"), env=env, capture_output=True, stdin=subprocess.DEVNULL
        )
        files = b"".join(file.read_bytes() for file in Path(folder).rglob("*") if file.is_file())
    out, complaint = done.stdout.decode(), done.stderr.decode()
    found = []
    if done.returncode != fault.code:
        found.append(f"exit code {done.returncode} instead of {fault.code}: {complaint.strip()[-300:]}")
    if out.strip() != text:
        found.append(f"said {out!r} instead of {text!r}")
    lines = complaint.splitlines()
    if fault.code and (fault.says not in complaint or not lines or ". " not in lines[0] or not lines[0].endswith(".")):
        found.append(f"no clear sentence: {complaint!r}")
    if not debug and len(lines) != (1 if fault.code else 0):
        found.append(f"{len(lines)} lines: {complaint!r}")
    if KEY in out + complaint or KEY.encode() in files:
        found.append("the key is told")
    return found


def main() -> None:
    """Exit 1 when any was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-N", "--rounds", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    faults = [FAULTS[at % len(FAULTS)] for at in range(given.rounds)]
    with ThreadPoolExecutor(given.jobs) as pool:
        results = list(pool.map(meet, faults, range(given.rounds)))
    met, bad = Counter(fault.name for fault in faults), Counter[str]()
    for fault, found in zip(faults, results, strict=True):
        bad[fault.name] += bool(found)
        for line in found:
            say(f"  {fault.name}: {line}")
    table(["fault", "met", "bad"], [[name, met[name], bad[name]] for name in met])
    say(f"{given.rounds} faults, {bad.total()} not as they should be")
    raise SystemExit(1 if bad.total() else 0)


if __name__ == "__main__":
    main()
