"""Import of the logs of a real `llm`, checked for completeness.

Lets `llm -m SmolLM2` (or another model) answer prompts with system prompts, fragments and `-c`, imports its
logs.db, and compares texts, times and models with what `llm logs --json` says. Twice, to see that it is once.

    python benchmarks/llm_import.py [--model SmolLM2]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common import phichat, phichat_home, say


def run(env: dict[str, str], *command: object) -> str:
    """stdout of a command that has to succeed."""
    done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(f"{command} failed with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def main() -> None:
    """Ask, import and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="SmolLM2")
    given = parser.parse_args()
    with phichat_home() as home, tempfile.TemporaryDirectory() as folder:
        env = home | {"LLM_USER_PATH": folder}
        llm = (sys.executable, "-m", "llm")
        novel = Path(folder) / "novel.txt"
        novel.write_text("It was a dark night.\nThe end — 終わり 🦊\n", "utf-8")
        ask = (*llm, "-m", given.model)
        for arguments in (
            ("Say hi.",),
            ("-c", "Say it again."),
            ("-s", "You are a pirate.", "Who are you?"),
            ("-f", novel, "What is this about?"),
            ("-c", "-f", novel, "And this?"),
            ("--sf", novel, "-s", "Be brief.", "What are your rules?"),
        ):
            run(env, *ask, *arguments)
        told = json.loads(run(env, *llm, "logs", "--json", "-n", 0))
        logs = Path(folder) / "logs.db"
        for _ in range(2):
            say(run(env, *phichat("logs", "import", logs)).strip())
        document = json.loads(run(env, *phichat("export", "--all", "--format", "json")))
    turns = [turn for conversation in document["conversations"] for turn in conversation["turns"]]

    def essence(prompt: str, system: str | None, text: str, model: str, when: str) -> tuple[Any, ...]:
        moment = datetime.fromisoformat(when)
        return prompt, system, text, model, moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    ours = {
        essence(one["prompt"], one.get("system"), one["text"], one["model"]["name"], one["created_at"]) for one in turns
    }
    theirs = {essence(one["prompt"], one["system"], one["response"], one["model"], one["datetime_utc"]) for one in told}
    conversations = {one["conversation_id"] for one in told}
    same = len(ours & theirs)
    say(f"{same} of {len(told)} turns with the same texts, system prompts, models and times")
    say(f"{len(document['conversations'])} of {len(conversations)} conversations")
    if same < len(told) or len(turns) != len(told) or len(document["conversations"]) != len(conversations):
        for one in sorted(map(repr, ours ^ theirs)):
            say(f"  {one}")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
