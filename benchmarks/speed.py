"""phichat's speed against llama-bench, interleaved so that a drifting machine moves both alike.

Three comparisons over some rounds; each figure is a median and each ratio the median of the rounds' ratios:
prompt and generation of `phichat bench` against llama-bench, and a real greedy reply (sampled, turned into
text, streamed to this process) against llama-bench's generation at the same depth.

    python benchmarks/speed.py MODEL.gguf --llama-bench PATH [--rounds 9] [--target 0.97]

With --long instead: tokens per second over tokens 3,000 to 4,000 of one reply against the bare low-level
loop over the same range. For models that do not stop before, such as one of random weights.

    python benchmarks/speed.py MODEL.gguf --long [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from common import phichat, phichat_home, say, table, verdict

from phichat.cancel import CancelToken
from phichat.config.settings import EngineOptions
from phichat.engine.autotune.cpu_buffer_probe import ProbeCache
from phichat.engine.local import LocalBackend
from phichat.events import TextDelta, TurnFinished
from phichat.types import Message, Role, SamplingParams

STORY = "Tell me a very long story about a lighthouse keeper, a storm and a lost ship, with every detail."
Pair = tuple[float, float]


def run_json(command: Sequence[object], env: dict[str, str] | None = None) -> Any:
    """The JSON that a command prints."""
    done = subprocess.run([str(part) for part in command], env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed with {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def llama_bench(given: argparse.Namespace, prompt: int, generated: int, depth: int = 0) -> dict[str, float]:
    """Tokens per second as llama-bench measures them, "pp" and "tg" where asked for."""
    command = [given.llama_bench, "-m", given.model, "-p", prompt, "-n", generated, "-d", depth, "-r", 1, "-fa", "auto"]
    command += ["-b", 512, "-ub", 512, "-t", given.threads, "-ngl", given.n_gpu_layers, "-o", "json"]
    return {"pp" if test["n_prompt"] else "tg": test["avg_ts"] for test in run_json(command)}


def phichat_bench(given: argparse.Namespace, env: dict[str, str]) -> dict[str, float]:
    """The same from `phichat bench`."""
    command = phichat("bench", given.model, "-p", given.prompt_tokens, "-n", given.generated_tokens, "-r", 1, "--json")
    said = run_json([*command, "--threads", given.threads, "--n-gpu-layers", given.n_gpu_layers], env)
    return {"pp": said["prompt"]["tokens_per_second"], "tg": said["generation"]["tokens_per_second"]}


def backend(given: argparse.Namespace, n_ctx: int, folder: str) -> LocalBackend:
    """The model loaded in an engine process."""
    options = EngineOptions(ctx_size=n_ctx, threads=given.threads, n_gpu_layers=given.n_gpu_layers)
    local = LocalBackend("model", Path(given.model), options, ProbeCache(Path(folder) / "verdicts.json"))
    for _ in local.load(CancelToken()):
        pass
    return local


def reply(local: LocalBackend, prompt: str, most: int) -> tuple[TurnFinished, list[float]]:
    """A greedy reply, and when each piece of its text arrived."""
    messages, params = [Message(Role.USER, prompt)], SamplingParams(temperature=0, max_tokens=most)
    arrived = []
    for event in local.generate(messages, params, CancelToken()):
        match event:
            case TextDelta():
                arrived.append(perf_counter())
            case TurnFinished():
                return event, arrived
    raise SystemExit("the reply did not end")


def report(rows: dict[str, list[Pair]], ours: str, theirs: str, target: float) -> None:
    """Medians, and the medians of the ratios."""
    lines, ratios = [], {}
    for name, pairs in rows.items():
        ratio = [a / b for a, b in pairs]
        ratios[name] = statistics.median(ratio)
        mine, other = (statistics.median(side) for side in zip(*pairs, strict=True))
        lines.append((name, mine, other, f"{ratios[name]:.3f}", f"{min(ratio):.3f} .. {max(ratio):.3f}"))
    table(("tokens per second, medians", ours, theirs, "ratio", "range"), lines)
    say()
    for name, value in ratios.items():
        verdict(name, value, target)


def compare(given: argparse.Namespace) -> None:
    """phichat bench and a real reply against llama-bench."""
    prompt, generation, real = (f"{what} against llama-bench" for what in ("prompt", "generation", "real reply"))
    rows: dict[str, list[Pair]] = {prompt: [], generation: [], real: []}
    with phichat_home() as env, tempfile.TemporaryDirectory() as folder:
        for at in range(given.rounds):
            size = given.prompt_tokens, given.generated_tokens
            if at % 2:
                theirs, ours = llama_bench(given, *size), phichat_bench(given, env)
            else:
                ours, theirs = phichat_bench(given, env), llama_bench(given, *size)
            rows[prompt].append((ours["pp"], theirs["pp"]))
            rows[generation].append((ours["tg"], theirs["tg"]))
        local = backend(given, 2048, folder)
        try:
            turn, _ = reply(local, STORY, given.reply_tokens)
            said, depth = turn.usage.completion_tokens, turn.usage.prompt_tokens
            for at in range(given.rounds):
                first = llama_bench(given, 0, said, depth)["tg"] if at % 2 else 0.0
                turn, _ = reply(local, STORY, given.reply_tokens)
                second = first or llama_bench(given, 0, said, depth)["tg"]
                rows[real].append((turn.timings.tokens_per_second, second))
        finally:
            local.close()
    report(rows, "phichat", "llama-bench", given.target)


def compare_long(given: argparse.Namespace) -> None:
    """Tokens 3,000 to 4,000 of a reply against the bare loop."""
    from llama_reference import Reference

    first, last = 3000, 4000
    pairs: list[Pair] = []
    reference = Reference(given.model, 4096, given.threads)
    with tempfile.TemporaryDirectory() as folder:
        local = backend(given, 4096, folder)
        try:
            for at in range(given.rounds):
                bare = 0.0
                if at % 2:
                    bare = _bare(reference, first, last)
                turn, arrived = reply(local, "hi", last)
                said = turn.usage.completion_tokens
                if said < last:
                    raise SystemExit(f"the reply ended after {said} tokens; try another model")
                # A token that completes no character brings no piece: positions are scaled.
                begin = round(first / last * (len(arrived) - 1))
                tokens = (len(arrived) - 1 - begin) * said / len(arrived)
                speed = tokens / (arrived[-1] - arrived[begin])
                pairs.append((speed, bare or _bare(reference, first, last)))
        finally:
            local.close()
    report({"tokens 3,000 to 4,000 against the bare loop": pairs}, "phichat", "bare loop", given.target)


def _bare(reference: Any, first: int, last: int) -> float:
    """Tokens per second from the first to the last, of nothing but sampling and evaluating."""
    reference.clear()
    reference.evaluate(reference.tokenize(reference.render([{"role": "user", "content": "hi"}])))
    start = 0.0
    for at in range(last):
        if at == first:
            start = perf_counter()
        reference.append(reference.next())
    return (last - first) / (perf_counter() - start)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--llama-bench", metavar="PATH", help="built from the same llama.cpp as llama-cpp-python")
    parser.add_argument("--long", action="store_true", help="compare late tokens of one reply with the bare loop")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--n-gpu-layers", type=int, default=0)
    parser.add_argument("-p", "--prompt-tokens", type=int, default=256)
    parser.add_argument("-n", "--generated-tokens", type=int, default=32)
    parser.add_argument("--reply-tokens", type=int, default=128, help="of the real reply")
    parser.add_argument("--target", type=float, default=0.9, help="ratio that counts as met")
    given = parser.parse_args()
    if given.long:
        compare_long(given)
    elif given.llama_bench:
        compare(given)
    else:
        parser.error("name llama-bench with --llama-bench, or choose --long")


if __name__ == "__main__":
    main()
