"""Replays of seeded replies: the same text, or the change that explains another one.

Asks the embedded model ten single questions and five conversations of two turns each, all of them twenty
replies with a seed (half of them drawn), replays them, and then replays one with another model file,
another parameter and another context.

    python benchmarks/replay_parity.py [--model MODEL] [--max-tokens 64]
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from common import ask_json, phichat, phichat_home, say

from phichat.models.local.local_models import LocalModels
from phichat.paths import Paths

QUESTIONS = (
    "What is the capital of France?",
    "Write a Python function that reverses a string.",
    "Tell me a story about a lighthouse.",
    "Why is the sky blue?",
    "List five fruits as JSON.",
    "Wie heißt die Hauptstadt von Österreich?",
    "Explain recursion to a child.",
    "Write a haiku about rain.",
    "What is 17 * 23?",
    "Describe a mountain in winter.",
)
TALKS = (
    ("My name is Ada.", "What is my name?"),
    ("Name a colour.", "Name another one."),
    ("Write a for loop in Python.", "Now with enumerate, please."),
    ("Tell me about whales.", "And about sharks?"),
    ("Give me a recipe for bread.", "Without yeast?"),
)


def replayed(env: dict[str, str], cid: str, *flags: object) -> list[dict[str, Any]]:
    """What `phichat logs replay --json` says."""
    command = phichat("logs", "replay", cid, "--json", *flags)
    done = subprocess.run(command, env=env, capture_output=True, text=True, encoding="utf-8", stdin=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(f"phichat logs replay failed with {done.returncode}: {done.stderr.strip()}")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def main() -> None:
    """Ask, replay and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default=str(LocalModels.from_paths(Paths.from_environment()).select_model(None).model.path)
    )
    parser.add_argument("--max-tokens", type=int, default=64)
    given = parser.parse_args()
    identical = total = 0
    with phichat_home() as env, tempfile.TemporaryDirectory() as folder:
        flags = ("-m", given.model, "--max-tokens", given.max_tokens)
        cids = []
        for at, talk in enumerate([(question,) for question in QUESTIONS] + list(TALKS)):
            seed = ("--seed", at) if at % 2 else ()
            said = ask_json(env, *flags, *seed, "--", talk[0])
            cids.append(said["conversation_id"])
            for prompt in talk[1:]:
                ask_json(env, *flags, *seed, "--cid", cids[-1], "--", prompt)
        for cid in cids:
            for turn in replayed(env, cid):
                total += 1
                identical += turn["identical"]
                if not turn["identical"] or turn["changed"]:
                    say(f"  {cid} turn {turn['turn']}: {turn}")
        say(f"{identical} of {total} replies identical")
        other = Path(folder) / "other.gguf"
        shutil.copyfile(given.model, other)
        with other.open("ab") as file:
            file.write(bytes(32))  # behind the tensors: another file with the same weights
        cases = (
            ("model", ("-m", other)),
            ("settings", ("--temp", 1.7)),
            ("settings", ("--ctx-size", 512)),
            ("hardware", ("--threads", 1)),
        )
        for what, changed in cases:
            found = replayed(env, cids[0], *changed)[0]
            ok = found["changed"] == [what]
            say(f"{' '.join(map(str, changed)):30} changed: {found['changed']}: {'named' if ok else 'NOT NAMED'}")
    if identical < total:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
