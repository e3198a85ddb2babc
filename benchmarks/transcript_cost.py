"""Generation speed with and without the transcript, on the built-in model, in turn.

python benchmarks/transcript_cost.py --pairs 30
"""

from __future__ import annotations

import argparse
import random
import statistics

from common import ask_json, phichat_home, say, spread, verdict


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=200)
    given = parser.parse_args()
    usual = ("--temp", "0.8", "--seed", "1", "--max-tokens", given.tokens, "Tell me a very long story about the sea.")
    with phichat_home() as env:
        ask_json(env, *usual)
        ratios, speeds = [], dict[bool, list[float]]({True: [], False: []})
        for _ in range(given.pairs):
            for keeps in random.sample((True, False), 2):
                answer = ask_json(env, *usual, *(() if keeps else ("-n",)))
                speeds[keeps].append(answer["timings"]["tokens_per_second"])
            ratios.append(speeds[True][-1] / speeds[False][-1])
    say(f"tokens a second: kept {spread(speeds[True])}, not kept {spread(speeds[False])}")
    error = statistics.stdev(ratios) / len(ratios) ** 0.5
    say(f"ratios of pairs: mean {statistics.mean(ratios):.4f} ± {error:.4f}, median {statistics.median(ratios):.4f}")
    verdict("speed with the transcript, of that without", statistics.median(ratios), 0.99)


if __name__ == "__main__":
    main()
