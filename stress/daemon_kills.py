"""kill -9 of background engines and their clients at any moment: right answers, no process left, nothing blocked.

Each round starts a question, kills its engine or its client at a random moment of loading, reading or generating, and
asks again: the answer has to be the one that a private engine gives. At the end every engine has to leave by itself.

    python stress/daemon_kills.py [--rounds 100] [--seed 0]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1] / "benchmarks"))

import psutil
from common import ask_json, engines_of, phichat, phichat_home, say

_KEEP_ALIVE_S = 5


def main() -> None:
    """Kill and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    chance, found = random.Random(given.seed), Counter[str]()
    usual = ("-m", "smollm2-135m", "--temp", 0, "--ctx-size", 1024, "--max-tokens", 24)
    prompt = "Write a haiku about the sea."
    with phichat_home() as env:
        right = ask_json({**env, "PHICHAT_KEEP_ALIVE": "0"}, *usual, prompt)["text"]
        env |= {"PHICHAT_KEEP_ALIVE": str(_KEEP_ALIVE_S)}
        slowest = 0.0
        for _ in range(given.rounds):
            client = subprocess.Popen(
                phichat("ask", "--json", *usual, prompt), env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            time.sleep(chance.uniform(0.05, 1.2))
            if chance.random() < 0.5:
                client.kill()
                found["client killed"] += 1
            else:
                there = engines_of(env["PHICHAT_HOME"])
                for engine in there:
                    with contextlib.suppress(psutil.Error):
                        engine.kill()
                found["engine killed" if there else "no engine yet"] += 1
            said, _ = client.communicate()
            if client.returncode == 0 and json.loads(said)["text"] != right:
                found["WRONG ANSWER of the one that was hit"] += 1
            begun = time.perf_counter()
            if ask_json(env, *usual, prompt)["text"] != right:
                found["WRONG ANSWER after it"] += 1
            slowest = max(slowest, time.perf_counter() - begun)
        time.sleep(_KEEP_ALIVE_S + 3)
        left = engines_of(env["PHICHAT_HOME"])
        for engine in left:
            engine.kill()
    for what, count in sorted(found.items()):
        say(f"{what}: {count}")
    say(f"the slowest question after a kill: {slowest:.2f} s")
    say(f"engines left after keep_alive: {len(left)}")
    wrong = sum(count for what, count in found.items() if what.startswith("WRONG"))
    if wrong or left:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
