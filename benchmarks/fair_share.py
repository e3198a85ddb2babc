"""Ten questions at once to one engine: right answers, and no client waits much longer than its fair share.

The fair share of each is the time that all of them take one after another: every client has a tenth of the engine.

    python benchmarks/fair_share.py [--clients 10] [--tokens 32]
"""

from __future__ import annotations

import argparse
import json
import subprocess
from time import perf_counter

from common import ask_json, engines_of, limit, phichat, phichat_home, say


def main() -> None:
    """Ask and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=32)
    given = parser.parse_args()
    usual = ("-m", "smollm2-135m", "--temp", 0, "--max-tokens", given.tokens)
    prompts = [f"Tell me a story about a cat that is {age} years old." for age in range(1, given.clients + 1)]
    with phichat_home() as env:
        env |= {"PHICHAT_KEEP_ALIVE": "10m"}
        try:
            ask_json(env, *usual, "Hi")
            begun = perf_counter()
            right = [ask_json(env, "-n", *usual, prompt)["text"] for prompt in prompts]
            share = perf_counter() - begun
            begun = perf_counter()
            clients = [
                subprocess.Popen(phichat("ask", "--json", "-n", *usual, prompt), env=env, stdout=subprocess.PIPE)
                for prompt in prompts
            ]
            said = [json.loads(client.communicate()[0])["text"] for client in clients]
            slowest = perf_counter() - begun
            engines = len(engines_of(env["PHICHAT_HOME"]))
        finally:
            subprocess.run(phichat("stop"), env=env, check=True, capture_output=True)
    same = sum(one == other for one, other in zip(said, right, strict=True))
    say(f"{same} of {given.clients} answers are those that were given one at a time; engines: {engines}")
    limit("the slowest, of the fair share", slowest / share * 100, 130, "%")


if __name__ == "__main__":
    main()
