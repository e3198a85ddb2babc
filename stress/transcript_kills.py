"""SIGKILL of phichat at random moments, three at once, and a check of the conversations that are left.

    python stress/transcript_kills.py --kills 300 --asks 30

Most writers run the shipped pipeline on a scripted reply (so that a kill costs a second); `--asks` of
them are `phichat ask` on the embedded model. What was said is witnessed outside the writer, with times.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

sys.path.insert(1, str(Path(__file__).parents[1] / "benchmarks"))

from common import environment, limit, percentile, phichat, say

from phichat.cancel import CancelToken
from phichat.chat.context_window import TurnHistory
from phichat.chat.pipeline import TurnPipeline
from phichat.engine.scripted_backend import ScriptedBackend, ScriptedReply
from phichat.events import TextDelta, TranscriptUnavailable, TurnFinished, TurnStarted
from phichat.transcript.recorder import Recorder
from phichat.transcript.records import TurnRecord
from phichat.transcript.store import TranscriptStore
from phichat.types import SamplingParams

AT_ONCE = 3
LATE_MS = 250


class Paced(list[str]):
    """Pieces that come one after the other, now and then after a pause."""

    def __iter__(self) -> Iterator[str]:
        for piece in super().__iter__():
            sleep(0.6 if random.random() < 0.01 else random.uniform(0.002, 0.03))
            yield piece


def write_turns(path: Path, name: str) -> None:
    """What a killed writer does: turn after turn of one conversation, each piece witnessed on stdout."""

    def witness(kind: str, text: str) -> None:
        sys.stdout.write(json.dumps([monotonic(), kind, text]) + "\n")
        sys.stdout.flush()

    replies = [
        ScriptedReply(Paced(f"w{at}-{number} " for number in range(random.randint(5, 80)))) for at in range(1000)
    ]
    pipeline = TurnPipeline(ScriptedBackend(replies), Recorder(lambda: TranscriptStore.open_file(path)))
    for number in range(1000):
        for event in pipeline.run(TurnHistory(prompt=f"{name} turn {number}"), SamplingParams(), CancelToken()):
            match event:
                case TurnStarted():
                    witness("prompt", event.prompt)
                case TextDelta():
                    witness("text", event.text)
                case TurnFinished():
                    witness("end", "")
                case TranscriptUnavailable():
                    witness("trouble", event.reason)


@dataclass
class Seen:
    """A turn as it was witnessed: its pieces with the times they came."""

    prompt: str
    pieces: list[tuple[float, str]] = field(default_factory=list)
    ended: bool = False


@dataclass
class Victim:
    """A writer that was killed. lost_ms: of its last turn's text, by the time the first missing piece was seen."""

    problems: list[str]
    lost_ms: float
    was_streaming: bool


def judge(seen: list[Seen], killed_at: float, kept: dict[str, TurnRecord]) -> Victim:
    """Compare what was witnessed with what is kept."""
    problems, lost = [], 0.0
    for turn in seen:
        record = kept.get(turn.prompt)
        if record is None:
            problems.append(f"the prompt {turn.prompt!r} is lost")
            continue
        said = "".join(piece for _, piece in turn.pieces)
        if turn.ended and (record.text != said or record.finish_reason is None):
            problems.append(f"the finished turn {turn.prompt!r} is not whole")
        elif not (said.startswith(record.text) or record.text.startswith(said)):
            problems.append(f"the text of {turn.prompt!r} is another")
        if not turn.ended and record.finish_reason is None and not record.is_cut_off:
            problems.append(f"{turn.prompt!r} is not shown as cut off")
        length = 0
        for when, piece in turn.pieces:
            length += len(piece)
            if length > len(record.text):
                lost = max(lost, (killed_at - when) * 1000)
                break
    return Victim(problems, lost, bool(seen) and bool(seen[-1].pieces) and not seen[-1].ended)


def kill_pipeline(home: Path, name: str) -> Victim:
    """One writer on the scripted backend, killed."""
    path = home / "data" / "logs.db"
    command = [sys.executable, __file__, "--write", str(path), name]
    seen: list[Seen] = []
    problems: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:

        def listen() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                if not line.endswith("\n"):
                    return
                when, kind, text = json.loads(line)
                if kind == "prompt":
                    seen.append(Seen(text))
                elif kind == "text":
                    seen[-1].pieces.append((when, text))
                elif kind == "end":
                    seen[-1].ended = True
                else:
                    problems.append(f"not kept: {text}")

        listener = threading.Thread(target=listen)
        listener.start()
        while not seen and process.poll() is None:
            sleep(0.01)
        sleep(random.uniform(0, 2.5))
        killed_at = monotonic()
        process.send_signal(signal.SIGKILL)
        process.wait()
        listener.join()
    victim = judge(seen, killed_at, turns_of(path, name))
    return Victim(problems + victim.problems, victim.lost_ms, victim.was_streaming)


def kill_ask(home: Path, name: str) -> Victim:
    """One `phichat ask` on the embedded model, killed."""
    prompt = f"{name}: tell me a very long story about a lighthouse."
    command = phichat("ask", "--max-tokens", 400, prompt)
    seen = [Seen(prompt)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(home)
    ) as process:

        def listen() -> None:
            assert process.stdout is not None
            while piece := process.stdout.read1(65536):  # type: ignore[attr-defined]
                seen[0].pieces.append((monotonic(), piece.decode("utf-8", "ignore")))

        listener = threading.Thread(target=listen)
        listener.start()
        while not seen[0].pieces and process.poll() is None:
            sleep(0.01)
        sleep(random.uniform(0, 3))
        seen[0].ended = process.poll() is not None
        killed_at = monotonic()
        process.send_signal(signal.SIGKILL)
        process.wait()
        listener.join()
    if seen[0].ended:  # too fast for us; the line end is the terminal's
        seen[0].pieces[-1] = (seen[0].pieces[-1][0], seen[0].pieces[-1][1].removesuffix("\n"))
    return judge(seen, killed_at, turns_of(home / "data" / "logs.db", name))


def turns_of(path: Path, name: str) -> dict[str, TurnRecord]:
    """The turns of one writer by their prompt, after the file has proved whole."""
    store = TranscriptStore.open_file(path)
    try:
        with store.database.autocommit() as connection:
            (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
        if verdict != "ok":
            raise SystemExit(f"the database is damaged: {verdict}")
        titles = [one for one in store.list_conversations() if one.title.startswith(name)]
        return {turn.prompt: turn for one in titles for turn in store.get_conversation(one.id).turns}
    finally:
        store.close()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--asks", type=int, default=30, help="how many of them are `phichat ask`")
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write_turns(Path(given.write[0]), given.write[1])
        return
    with tempfile.TemporaryDirectory(prefix="phichat-kills-") as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        home = Path(folder)
        names = [f"writer{number:04}" for number in range(given.kills)]
        kinds = [kill_ask if number < given.asks else kill_pipeline for number in range(given.kills)]
        victims = list(pool.map(lambda kind, name: kind(home, name), kinds, names))
    problems = [problem for victim in victims for problem in victim.problems]
    lost = [victim.lost_ms for victim in victims]
    streaming = sum(victim.was_streaming for victim in victims)
    say(f"{len(victims)} killed, {streaming} of them in the middle of a reply, {AT_ONCE} at once")
    say(f"problems: {len(problems)}; integrity_check was ok {len(victims)} times")
    for problem in problems[:20]:
        say(f"  {problem}")
    over = [
        f"{name} {victim.lost_ms:.0f}" for name, victim in zip(names, victims, strict=True) if victim.lost_ms > LATE_MS
    ]
    say(f"more than {LATE_MS} ms of text lost: {len(over)} ({', '.join(over)})")
    say(f"text lost: median {percentile(lost, 0.5):.0f} ms, p95 {percentile(lost, 0.95):.0f} ms")
    limit("text lost, at most", max(lost), LATE_MS, "ms")


if __name__ == "__main__":
    main()
