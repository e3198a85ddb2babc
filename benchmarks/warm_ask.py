"""Time of a question to an engine that is already running, against `llm`.

Each round asks an engine that stays for one token, and then `llm -m SmolLM2`, where that is installed, which can only
be asked for the whole answer: a short one by this prompt.

    python benchmarks/warm_ask.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter

from common import limit, phichat, phichat_home, say, spread, table


def timed(command: list[str], env: dict[str, str]) -> tuple[float, str]:
    """Milliseconds of one run that must succeed, and its stdout."""
    start = perf_counter()
    done = subprocess.run(command, env=env, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return (perf_counter() - start) * 1000, done.stdout


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", default="Say hi")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    llm = shutil.which("llm", path=str(Path(sys.executable).parent))
    with phichat_home() as env:
        env |= {"PHICHAT_KEEP_ALIVE": "10m"}
        ask = phichat("ask", "--json", "-m", "smollm2-135m", "--max-tokens", 1, given.prompt)
        try:
            cold, _ = timed(ask, env)
            asked, beyond, others = [], [], []
            for _ in range(given.rounds):
                took, document = timed(ask, env)
                asked.append(took)
                beyond.append(took - json.loads(document)["timings"]["first_token_s"] * 1000)
                if llm:
                    others.append(timed([llm, "-m", "SmolLM2", "-n", given.prompt], env)[0])
        finally:
            subprocess.run(phichat("stop"), env=env, check=True, capture_output=True)
    rows = [
        ("the first question, which starts the engine", f"{cold:,.1f}"),
        ("a later one", spread(asked)),
        ("a later one, beyond the evaluation", spread(beyond)),
    ]
    table(("", "milliseconds: median [range]"), rows + ([("llm -m SmolLM2", spread(others))] if others else []))
    say()
    limit("a later one, beyond the evaluation", statistics.median(beyond), 150, "ms")
    if others:
        limit("a later one, share of llm's time", statistics.median(asked) / statistics.median(others) * 100, 20, "%")


if __name__ == "__main__":
    main()
