"""Deaths of the engine process and of phichat, Ctrl-C at random moments, and damaged model files.

    python stress/engine_faults.py kill-engine MODEL.gguf    kill -9 of the engine while it loads, reads, generates
    python stress/engine_faults.py kill-app MODEL.gguf       kill -9 of phichat at random moments
    python stress/engine_faults.py ctrl-c MODEL.gguf         SIGINT while the model loads, reads, generates
    python stress/engine_faults.py mutate SMALL.gguf         asks of thousands of damaged copies of a file

The first three want a real model that loads in a moment and has a context of 4,096 tokens or more.
The last wants a file of at most a few megabytes; `--save FOLDER` keeps the files that misbehave.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

sys.path.insert(1, str(Path(__file__).parents[1] / "benchmarks"))

from ask_process import Bench, problems_of
from common import (
    default_interrupts,
    engine_under,
    engines_of,
    limit,
    percentile,
    phichat,
    phichat_home,
    say,
)
from damaged_gguf import ask_all


def kill9(pid: int) -> bool:
    """Whether there was such a process to kill."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def kill_engine(given: argparse.Namespace, env: dict[str, str]) -> int:
    """kill -9 of the engine in each phase."""
    bench, failures = Bench(given, env), 0
    for phase in given.phases or ("load", "prompt", "generation"):
        codes: Counter[int] = Counter()
        told: Counter[str] = Counter()
        took, missed, orphans, dead_next, bad = [], 0, 0, 0, 0
        while sum(codes.values()) < given.rounds and missed < given.rounds:
            ask, threads = bench.start(phase)
            engine = bench.reach(phase, ask)
            killed_at = monotonic()
            if engine and not kill9(engine):
                engine = 0
            code, ended_at = ask.end(threads)
            if not engine or code == 0:
                missed += 1  # it had finished before
                continue
            took.append((ended_at - killed_at) * 1000)
            codes[code] += 1
            if found := problems_of(ask, code, 1, lines=1):
                bad += 1
                say(f"  {phase}: {'; '.join(found)}")
            told[ask.complained.decode("utf-8", "replace").strip()] += 1
            orphans += bench.leftovers(0.5)[0]
            if sum(codes.values()) % 10 == 0:
                after = subprocess.run(
                    phichat("ask", *bench.flags, "--max-tokens", 4, "hi"), env=env, capture_output=True
                )
                dead_next += after.returncode != 0 or bool(after.stderr)
        say(
            f"{phase}: {sum(codes.values())} kills, exit codes {dict(codes)}, {bad} bad, {orphans} orphans, "
            f"{dead_next} next asks failed, {missed} came too late"
        )
        say(f"  from kill to exit: p50 {percentile(took, 0.5):.0f} ms, p99 {percentile(took, 0.99):.0f} ms")
        for line, times in told.most_common(6):
            say(f"  {times:3} x {line}")
        failures += bad + orphans + dead_next
    return failures


def kill_app(given: argparse.Namespace, env: dict[str, str]) -> int:
    """kill -9 of phichat at random moments of its life."""
    bench, orphans, gone, with_engine = Bench(given, env), 0, [], 0
    for round_ in range(given.rounds):
        phase = ("load", "prompt", "generation")[round_ % 3]
        ask, _ = bench.start(phase)
        if phase == "load":
            sleep(bench.random.uniform(0, 0.15 + bench.load_s))  # the start of phichat itself, too
        else:
            bench.reach(phase, ask)
        with_engine += engine_under(ask.process.pid) is not None
        ask.process.kill()
        ask.process.wait()
        left, after = bench.leftovers(2.0)
        orphans += left
        gone.append(after * 1000)
    say(
        f"{given.rounds} kills, {with_engine} with an engine alive, {orphans} engines left after 2 s; the last engine "
        f"was seen after p50 {percentile(gone, 0.5):.0f} ms, max {max(gone):.0f} ms"
    )
    return orphans


def ctrl_c(given: argparse.Namespace, env: dict[str, str]) -> int:
    """SIGINT in each phase; the phase "start" is the interpreter's own beginning, before phichat has its say."""
    default_interrupts()
    bench, failures, all_took = Bench(given, env), 0, []
    for phase in given.phases or ("load", "prompt", "generation"):
        codes: Counter[int] = Counter()
        took, missed, orphans, bad = [], 0, 0, 0
        while sum(codes.values()) < given.rounds and missed < given.rounds:
            ask, threads = bench.start(phase)
            if phase == "start":
                sleep(bench.random.uniform(0, 0.2))
            else:
                bench.reach(phase, ask)
            said_before = len(ask.said)
            pressed = monotonic()
            ask.process.send_signal(signal.SIGINT)
            code, ended_at = ask.end(threads)
            if code == 0:
                missed += 1
                continue
            codes[code] += 1
            took.append((ended_at - pressed) * 1000)
            found = problems_of(ask, code, 130, lines=0)
            said = ask.said.decode("utf-8", "replace").removesuffix("\n")
            if phase == "generation" and (not said or len(ask.said) < said_before):
                found.append("what was said is not printed")
            if not bench.story.startswith(said) and phase != "prompt":
                found.append(f"something else was said: {said[-80:]!r}")
            if found:
                bad += 1
                say(f"  {phase}: {'; '.join(found)}")
            orphans += bench.leftovers(0.5)[0]
        all_took += took
        say(
            f"{phase}: {sum(codes.values())} interrupts, exit codes {dict(codes)}, {bad} bad, {orphans} orphans, "
            f"{missed} came too late; signal to exit p50 {percentile(took, 0.5):.0f} ms, "
            f"p99 {percentile(took, 0.99):.0f} ms, max {max(took):.0f} ms"
        )
        failures += bad + orphans
    limit("signal to exit, p99", percentile(all_took, 0.99), 600, "ms")
    return failures + (percentile(all_took, 0.99) > 600)


def mutations(given: argparse.Namespace, env: dict[str, str]) -> int:
    """Thousands of damaged files."""
    folder = Path(given.save) if given.save else Path(tempfile.mkdtemp(prefix="phichat-mutations-"))
    return ask_all(Path(given.model), given.rounds, given.seed, folder, env, given.jobs, given.memory_limit)


VERBS: dict[str, tuple[Callable[[argparse.Namespace, dict[str, str]], int], int]] = {
    "kill-engine": (kill_engine, 50),
    "kill-app": (kill_app, 50),
    "ctrl-c": (ctrl_c, 50),
    "mutate": (mutations, 2000),
}


def main() -> None:
    """Run one of the four; exit 1 when anything was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, (_, rounds) in VERBS.items():
        verb = verbs.add_parser(name)
        verb.add_argument("model")
        verb.add_argument("-N", "--rounds", type=int, default=rounds, help="of each phase, or files")
        verb.add_argument("--seed", type=int, default=1)
        verb.add_argument("--max-tokens", type=int, default=400, help="of the reply")
        verb.add_argument("--prompt-words", type=int, default=1500, help="of the long prompt")
        verb.add_argument("--phases", nargs="*", choices=("start", "load", "prompt", "generation"))
        verb.add_argument("--save", metavar="FOLDER", help="where damaged files that misbehave are kept")
        verb.add_argument("--jobs", type=int, default=2, help="files asked at once")
        verb.add_argument("--memory-limit", type=float, default=8.0, help="address space of one process, GB")
    given = parser.parse_args()
    with phichat_home() as env:
        failures = VERBS[given.verb][0](given, env)
        left = engines_of(env["PHICHAT_HOME"])
        say(f"{failures} failures, {len(left)} engines left at the end")
        for process in left:
            process.kill()
    raise SystemExit(1 if failures or left else 0)


if __name__ == "__main__":
    main()
