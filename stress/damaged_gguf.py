"""Asks of phichat with damaged model files, and checks of the results."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

sys.path.insert(1, str(Path(__file__).parents[1] / "benchmarks"))

from common import percentile, phichat, say
from gguf_mutations import Mutator

ALLOWED = (0, 1, 3, 4, 5)
TIMEOUT_S = 30.0
SLOW_S = 20.0
_CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]")
_NOTICE = re.compile(
    r"phichat: (The file brings no chat template|--ctx-size|.*trained (for|with|on)|No model is chosen)"
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One ask of one file."""

    number: int
    what: str
    code: int | None
    seconds: float
    stdout: bytes
    stderr: bytes

    @property
    def sentence(self) -> str:
        """The last line on stderr."""
        return (self.stderr.decode("utf-8", "replace").strip().splitlines() or [""])[-1]

    def problems(self) -> list[str]:
        """What phichat must not do."""
        found = []
        lines = [line for line in self.stderr.decode("utf-8", "replace").splitlines() if line]
        if self.code is None:
            found.append(f"no end within {TIMEOUT_S:.0f} s")
        elif self.code not in ALLOWED:
            found.append(f"exit code {self.code}")
        elif self.seconds > SLOW_S:
            found.append(f"slow ({self.seconds:.1f} s)")
        if b"Traceback" in self.stderr:
            found.append("traceback")
        if _CONTROL.search(self.stdout) or _CONTROL.search(self.stderr):
            found.append("control bytes")
        if not all(line.startswith("phichat: ") for line in lines):
            found.append("something else on stderr")
        errors = [line for line in lines if not _NOTICE.match(line)]
        if self.code and len(errors) != 1:
            found.append(f"{len(errors)} sentences")
        return found


def _ask(number: int, mutator: Mutator, folder: Path, env: dict[str, str]) -> Outcome:
    file = folder / f"damaged-{number}.gguf"
    what, data = mutator.make(number)
    file.write_bytes(data)
    start = monotonic()
    command = phichat("ask", "-m", file, "--max-tokens", 4, "--ctx-size", 256, "hi")
    try:
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S)
        outcome = Outcome(number, what, done.returncode, monotonic() - start, done.stdout, done.stderr)
    except subprocess.TimeoutExpired as late:
        outcome = Outcome(number, what, None, monotonic() - start, late.stdout or b"", late.stderr or b"")
    if not outcome.problems():
        file.unlink()
    return outcome


def ask_all(model: Path, rounds: int, seed: int, folder: Path, env: dict[str, str], jobs: int, limit_gb: float) -> int:
    """Ask of `rounds` damaged copies of a model; how many misbehaved. Those files stay in folder."""
    folder.mkdir(parents=True, exist_ok=True)
    most = int(limit_gb * 1e9)
    # Inherited by every process: a file that asks for all memory must not take it from others.
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    mutator = Mutator(model.read_bytes(), seed)
    intact = phichat("ask", "-m", model, "--max-tokens", 4, "--ctx-size", 256, "hi")
    subprocess.run(intact, env=env, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(jobs) as pool:
        for outcome in pool.map(lambda number: _ask(number, mutator, folder, env), range(rounds)):
            outcomes.append(outcome)
            if found := outcome.problems():
                say(f"  {outcome.number}: {'; '.join(found)} | {outcome.what[:160]} | {outcome.sentence[:200]}")
            if len(outcomes) % 200 == 0:
                say(f"  ... {len(outcomes)} files")
    _report(outcomes)
    bad = [outcome for outcome in outcomes if outcome.problems()]
    if bad:
        say(f"files that misbehaved are in {folder}")
    return len(bad)


def _report(outcomes: list[Outcome]) -> None:
    codes = Counter(outcome.code for outcome in outcomes)
    seconds = [outcome.seconds for outcome in outcomes]
    say(f"{len(outcomes)} files, exit codes {dict(sorted(codes.items(), key=str))}")
    say(
        f"seconds an ask: p50 {percentile(seconds, 0.5):.2f}, p99 {percentile(seconds, 0.99):.2f}, "
        f"max {max(seconds):.2f}; over {SLOW_S:.0f} s: {sum(value > SLOW_S for value in seconds)}"
    )
    kinds: Counter[str] = Counter()
    for outcome in outcomes:
        if outcome.code:
            sentence = re.sub(r"/\S+|'[^']*'|\"[^\"]*\"", "…", outcome.sentence)
            kinds[re.sub(r"\d[\d,.]*", "N", sentence)[:150]] += 1
    say(f"{len(kinds)} kinds of error; the most frequent, and all that the engine did not survive:")
    for at, (sentence, times) in enumerate(kinds.most_common()):
        if at < 20 or "The engine" in sentence:
            say(f"  {times:4} x {sentence}")
