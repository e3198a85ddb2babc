"""Cost of `ask --vote N` against N single asks of the same prompt, and whether its seeds repeat.

    python benchmarks/vote.py [-m MODEL] [-n SAMPLES] [--rounds N] [--max-tokens N] [--prompt-tokens N]

In each round the commands are taken in turn, each with an engine of its own: the vote, and the single asks with the
seeds of its samples. Within one engine, the samples are then compared with as many replies that find the prompt in
the KV cache. Times are wall clock; both are also given per token, for replies that end early end at other places.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

from common import ask_json, phichat, phichat_home, say, table, verdict

from phichat.cancel import CancelToken
from phichat.config.settings import EngineOptions
from phichat.engine.autotune.cpu_buffer_probe import ProbeCache
from phichat.engine.local import LocalBackend
from phichat.events import SampleFinished, TurnFinished
from phichat.models.local.local_models import LocalModels
from phichat.paths import Paths
from phichat.types import Message, Role, SamplingParams

SENTENCE = "The ship went over the sea and the captain looked at the stars. "
TASK = "Tell this story again, in your own words and at length, and say how it ends."


def prompt_of(tokens: int) -> str:
    """About so many of the embedded model's tokens, its template's among them."""
    return SENTENCE * max(1, (tokens - 50) // 14) + TASK


def commands(given: argparse.Namespace, env: dict[str, str]) -> None:
    """Whole commands against each other."""
    shown = subprocess.run(phichat("ask", "--help"), env=env, capture_output=True, text=True, check=True).stdout
    alone = ("--keep-alive", 0) if "--keep-alive" in shown else ()
    usual: tuple[object, ...] = ("--max-tokens", given.max_tokens, *alone)
    if given.model:
        usual = ("-m", given.model, *usual)
    prompt = prompt_of(given.prompt_tokens)

    def timed(*arguments: object) -> tuple[dict[str, Any], float]:
        began = monotonic()
        document = ask_json(env, *usual, *arguments, prompt)
        return document, monotonic() - began

    first, _ = timed("--vote", given.samples, "--seed", 1)  # the first run tries the CPU's buffer types
    again, _ = timed("--vote", given.samples, "--seed", 1)
    texts = [[sample["text"] for sample in document["vote"]["samples"]] for document in (first, again)]
    say(f"the prompt has {first['usage']['prompt_tokens']} tokens, the samples at most {given.max_tokens}")
    say(
        f"the same seeds give the same {len(texts[0])} samples ({len(set(texts[0]))} different): {texts[0] == texts[1]}"
    )
    rows, ratios, per_token = [], [], []
    for turn in range(given.rounds):
        seed = 100 * (turn + 1)
        vote, vote_s = timed("--vote", given.samples, "--seed", seed)
        singles = [timed("--seed", seed + at) for at in range(given.samples)]
        tokens = sum(sample["tokens"] for sample in vote["vote"]["samples"])
        single_tokens = sum(document["usage"]["completion_tokens"] for document, _ in singles)
        single_s = sum(seconds for _, seconds in singles)
        ratios.append(vote_s / single_s)
        per_token.append(vote_s / tokens / (single_s / single_tokens))
        rows.append((turn + 1, f"{vote_s:.2f}", tokens, f"{single_s:.2f}", single_tokens, f"{ratios[-1]:.2f}"))
    table(("round", "vote s", "tokens", f"{given.samples} asks s", "tokens", "ratio"), rows)
    say(f"per token of either: {median(per_token):.2f} (median)")
    say(f"`--vote {given.samples}` costs {median(ratios):.2f} of {given.samples} single asks (median)")
    verdict("which cost so many times as much", 1 / median(ratios), 2.0)


def in_one_engine(given: argparse.Namespace, env: dict[str, str]) -> None:
    """The samples against as many replies that find the prompt in the KV cache."""
    with tempfile.TemporaryDirectory() as folder:
        path = LocalModels.from_paths(Paths.from_environment()).select_model(given.model).model.path
        backend = LocalBackend("model", path, EngineOptions(ctx_size=4096), ProbeCache(Path(folder) / "engine.json"))
        try:
            _compare_cached(given, backend)
        finally:
            backend.close()


def _compare_cached(given: argparse.Namespace, backend: LocalBackend) -> None:
    for _ in backend.load(CancelToken()):
        pass
    messages = (Message(Role.USER, prompt_of(given.prompt_tokens)),)
    rows, ratios = [], []
    for turn in range(given.rounds + 1):
        params = [SamplingParams(seed=100 * turn + at, max_tokens=given.max_tokens) for at in range(given.samples)]
        began = monotonic()
        events = list(backend.generate_n(messages, params[0], given.samples, CancelToken()))
        sampled_s = monotonic() - began
        tokens = sum(event.reply.usage.completion_tokens for event in events if isinstance(event, SampleFinished))
        began = monotonic()
        ends = [list(backend.generate(messages, one, CancelToken()))[-1] for one in params]
        single_s = monotonic() - began
        single_tokens = sum(end.usage.completion_tokens for end in ends if isinstance(end, TurnFinished))
        if turn:  # before it, the prompt was not cached
            ratios.append(sampled_s / single_s)
            rows.append((turn, f"{sampled_s:.2f}", tokens, f"{single_s:.2f}", single_tokens, f"{ratios[-1]:.2f}"))
    say()
    say("in one engine, with the prompt in the KV cache for both")
    table(("round", "samples s", "tokens", f"{given.samples} replies s", "tokens", "ratio"), rows)
    say(f"median {median(ratios):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", help="default: the embedded one")
    parser.add_argument("-n", "--samples", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--prompt-tokens", type=int, default=250)
    given = parser.parse_args()
    with phichat_home() as env:
        commands(given, env)
        in_one_engine(given, env)


if __name__ == "__main__":
    main()
