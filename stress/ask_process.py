"""A running `phichat ask`, brought to a random moment of a phase of its life, and judged when it has ended."""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import IO

sys.path.insert(1, str(Path(__file__).parents[1] / "benchmarks"))

from common import ask_json, engine_under, engines_of, phichat, say

STORY = "Tell me a very long story about a lighthouse keeper, a storm and a lost ship."
WORDS = ("wind", "from", "the", "west", "rain", "before", "midnight", "fog", "at", "dawn", "while", "ships", "passed")


@dataclass
class Ask:
    """A running `phichat ask` whose output is read as it comes."""

    process: subprocess.Popen[bytes]
    said: bytearray = field(default_factory=bytearray)
    complained: bytearray = field(default_factory=bytearray)
    first_output: threading.Event = field(default_factory=threading.Event)

    def listen(self) -> list[threading.Thread]:
        """Start reading both streams."""

        def read(stream: IO[bytes] | None, into: bytearray, first: threading.Event | None) -> None:
            while piece := stream.read1(65536):  # type: ignore[union-attr]
                into.extend(piece)
                if first:
                    first.set()

        threads = [
            threading.Thread(target=read, args=(self.process.stdout, self.said, self.first_output), daemon=True),
            threading.Thread(target=read, args=(self.process.stderr, self.complained, None), daemon=True),
        ]
        for thread in threads:
            thread.start()
        return threads

    def end(self, threads: list[threading.Thread]) -> tuple[int, float]:
        """(exit code, when it came); everything that was written has been read then."""
        # With a timeout of its own, `wait` looks only every 50 ms.
        rescue = threading.Timer(30, self.process.kill)
        rescue.start()
        code = self.process.wait()
        at = monotonic()
        rescue.cancel()
        for thread in threads:
            thread.join(5)
        return code, at

    def wait_for_engine(self) -> int:
        """The engine's process id, as soon as there is one; 0 when phichat ends without."""
        while self.process.poll() is None:
            if engine := engine_under(self.process.pid):
                return engine.pid
            sleep(0.002)
        return 0


class Bench:
    """One model, one home, and how long each phase takes when nothing happens."""

    def __init__(self, given: argparse.Namespace, env: dict[str, str]) -> None:
        self.env, self.home = env, env["PHICHAT_HOME"]
        self.flags = ("-m", given.model, "--temp", 0, "--max-tokens", given.max_tokens)
        self.random = random.Random(given.seed)
        self.long = " ".join(self.random.choice(WORDS) for _ in range(given.prompt_words))
        ask_json(env, *self.flags, "hi")  # the first run on a machine tries the CPU's buffer types
        story, long = ask_json(env, *self.flags, STORY), ask_json(env, *self.flags, "--max-tokens", 1, self.long)
        self.story: str = story["text"]
        self.load_s = min(story["timings"]["load_s"], long["timings"]["load_s"])
        self.prompt_s: float = long["timings"]["prompt_s"]
        self.generation_s: float = story["timings"]["generation_s"]
        say(
            f"undisturbed: load {self.load_s:.2f} s; prompt of {long['usage']['prompt_tokens']:,} tokens "
            f"{self.prompt_s:.2f} s; reply of {story['usage']['completion_tokens']} tokens {self.generation_s:.2f} s"
        )

    def start(self, phase: str, env: dict[str, str] | None = None) -> tuple[Ask, list[threading.Thread]]:
        """An ask whose phase of interest is long."""
        prompt = self.long if phase == "prompt" else STORY
        running = subprocess.Popen(
            phichat("ask", *self.flags, prompt),
            env=env or self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        ask = Ask(running)
        return ask, ask.listen()

    def reach(self, phase: str, ask: Ask) -> int:
        """Wait for a random moment of a phase; the engine's process id."""
        engine = ask.wait_for_engine()
        if phase == "load":
            sleep(self.random.uniform(0, self.load_s))
        elif phase == "prompt":
            sleep(self.load_s + self.random.uniform(0.02, 0.9 * self.prompt_s))
        else:
            ask.first_output.wait(60)
            sleep(self.random.uniform(0, 0.8 * min(self.generation_s, 3.0)))
        return engine

    def leftovers(self, within: float) -> tuple[int, float]:
        """Engines still alive after so many seconds, and when the last one was seen."""
        start = seen = monotonic()
        while alive := engines_of(self.home):
            seen = monotonic()
            if seen - start > within:
                break
            sleep(0.02)
        for process in alive:
            process.kill()
        return len(alive), seen - start


def problems_of(ask: Ask, code: int, expected: int, *, lines: int) -> list[str]:
    """What is wrong with how an ask ended."""
    stderr = ask.complained.decode("utf-8", "replace")
    told = [line for line in stderr.splitlines() if line]
    found = []
    if code != expected:
        found.append(f"exit code {code}")
    if "Traceback" in stderr:
        found.append("traceback")
    if len(told) != lines or not all(line.startswith("phichat: ") for line in told):
        found.append(f"stderr has {len(told)} lines: {told[:4]}")
    if b"\x1b" in ask.said + ask.complained:
        found.append("escape bytes")
    return found
