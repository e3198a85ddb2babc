"""Start-up time of phichat, without and with a model.

Compares `python -c pass` with `phichat --version`, and `phichat ask --max-tokens 1` with what a bare
low-level script in a fresh process needs to load the same model and evaluate the same prompt.

    python benchmarks/startup.py MODEL.gguf
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

from common import ask_json, limit, phichat, phichat_home, say, spread, table


def wall(command: list[str], env: dict[str, str]) -> float:
    """Milliseconds of one run that must succeed."""
    start = perf_counter()
    subprocess.run(command, env=env, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return (perf_counter() - start) * 1000


def console_script() -> str:
    """The `phichat` command of this interpreter."""
    found = shutil.which("phichat", path=str(Path(sys.executable).parent))
    if not found:
        raise SystemExit("this interpreter has no phichat command beside it")
    return found


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--prompt", default="Say hi")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--version-rounds", type=int, default=30)
    parser.add_argument("--ask-rounds", type=int, default=15)
    given = parser.parse_args()
    with phichat_home() as env:
        bare, version = [], []
        for _ in range(given.version_rounds):
            bare.append(wall([sys.executable, "-c", "pass"], env))
            version.append(wall([console_script(), "--version"], env))

        arguments = ("-m", given.model, "--threads", given.threads, "--max-tokens", 1)
        # The first run on a machine tries the CPU's buffer types and remembers the verdict.
        first = ask_json(env, *arguments, given.prompt)
        ask = phichat("ask", "--json", *arguments, given.prompt)
        low = [
            sys.executable,
            str(Path(__file__).with_name("llama_reference.py")),
            given.model,
            "--prompt",
            given.prompt,
        ]
        low += ["--ctx-size", str(first["context"]["n_ctx"]), "--threads", str(given.threads)]
        asked, needed, overhead = [], [], []
        for _ in range(given.ask_rounds):
            asked.append(wall(ask, env))
            said = json.loads(subprocess.run(low, env=env, check=True, capture_output=True, text=True).stdout)
            if said["prompt_tokens"] != first["usage"]["prompt_tokens"]:
                raise SystemExit(f"the prompts differ: {said['prompt_tokens']} tokens, {first['usage']}")
            needed.append((said["load_s"] + said["evaluate_s"]) * 1000)
            overhead.append(asked[-1] - needed[-1])
    table(
        ("", "milliseconds: median [range]"),
        [
            ("python -c pass", spread(bare)),
            ("phichat --version", spread(version)),
            ("phichat ask --max-tokens 1", spread(asked)),
            ("load and evaluation, low level", spread(needed)),
            ("ask beyond load and evaluation", spread(overhead)),
        ],
    )
    say()
    limit("phichat --version", statistics.median(version), 80, "ms")
    say(f"  where `python -c pass` takes {statistics.median(bare):.1f} ms")
    limit("ask beyond load and evaluation", statistics.median(overhead), 350, "ms")


if __name__ == "__main__":
    main()
