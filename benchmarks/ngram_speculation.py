"""Speed that n-gram speculation gains, and whether the answers stay the same: prose, edited code, quotations.

python benchmarks/ngram_speculation.py [--model NAME] [--max-tokens N] [--rounds N]

Two engines, one of which guesses, answer each task in turn. Reported are the ratio of their speeds and how many
answers are the same, greedy and sampled with a seed. `--draft auto` uses what `phichat bench --tune` has measured
in PHICHAT_HOME; without that it guesses nothing.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from statistics import median

from common import say, table

from phichat.cancel import CancelToken
from phichat.config.settings import Config, EngineOptions
from phichat.engine.local import LocalBackend
from phichat.events import TurnFinished
from phichat.paths import Paths
from phichat.services.app_context import AppContext
from phichat.services.backend_factory import BackendFactory
from phichat.types import Message, Role, SamplingParams

CODE = '''def area(width, height):
    """Return the area of a rectangle."""
    if width < 0 or height < 0:
        raise ValueError("width and height must not be negative")
    return width * height


def perimeter(width, height):
    """Return the perimeter of a rectangle."""
    if width < 0 or height < 0:
        raise ValueError("width and height must not be negative")
    return 2 * (width + height)
'''
TEXT = (
    "The harbour of the old town was built in 1420 by order of the council. It was destroyed by a storm in 1532 and "
    "rebuilt within nine years. In the nineteenth century the railway came, and the fishing boats moved to the new "
    "harbour in the north. Today the old harbour is a museum, and its cranes are the oldest in the country."
)
TASKS = {
    "prose: tides": "Explain why there are two tides a day.",
    "prose: letter": "Write a letter to a friend about a journey through the mountains.",
    "code: new": "Write a Python class for a stack with push, pop and peek.",
    "code: edit": f"Rename height to depth in this code and give the whole code:\n\n```python\n{CODE}```",
    "code: comment": f"Repeat this code with a comment before each function:\n\n```python\n{CODE}```",
    "quote: all": f"Repeat this text word by word:\n\n{TEXT}",
    "quote: list": f"List the sentences of this text as bullet points:\n\n{TEXT}",
    "quote: shorten": f"Summarize this text with its own words:\n\n{TEXT}",
}


def ask(backend: LocalBackend, prompt: str, params: SamplingParams) -> TurnFinished:
    """The answer."""
    for _ in backend.load(CancelToken()):
        pass
    for event in backend.generate([Message(Role.USER, prompt)], params, CancelToken()):
        if isinstance(event, TurnFinished):
            return event
    raise SystemExit("the turn did not end")


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--model")
    options.add_argument("--draft", default="lookup", choices=("auto", "lookup"))
    options.add_argument("--max-tokens", type=int, default=128)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    greedy = SamplingParams(temperature=0, max_tokens=given.max_tokens)
    sampled = SamplingParams(temperature=0.8, max_tokens=given.max_tokens, seed=7)

    @contextlib.contextmanager
    def engines() -> Iterator[list[LocalBackend]]:
        """New ones: where an engine keeps things in its KV cache depends on what it was asked before."""
        options = [EngineOptions(ctx_size=2048, draft="off"), EngineOptions(ctx_size=2048, draft=given.draft)]
        made = [
            BackendFactory(
                AppContext(Config(model=given.model, engine=each), Paths.from_environment())
            ).create_local_backend()
            for each in options
        ]
        yield made
        for backend in made:
            backend.close()

    rows: list[list[object]] = []
    same = {"greedy": 0, "sampled": 0}
    for name, prompt in TASKS.items():
        with engines() as pair:
            plain, guessing = (ask(backend, prompt, sampled).text for backend in pair)
            same["sampled"] += plain == guessing
        with engines() as pair:
            rounds = [[ask(backend, prompt, greedy) for backend in pair] for _ in range(given.rounds)]
        same["greedy"] += rounds[0][0].text == rounds[0][1].text
        speeds = [[answer.timings.tokens_per_second for answer in answers] for answers in rounds]
        ratio = median(guessing / plain for plain, guessing in speeds)
        tokens = rounds[0][0].usage.completion_tokens
        rows.append([name, tokens, median(plain for plain, _ in speeds), f"{ratio:.2f}"])
    table(["task", "tokens", "tokens/s without", "times as fast"], rows)
    say(f"the same answers: {same['greedy']} of {len(TASKS)} greedy, {same['sampled']} of {len(TASKS)} sampled")


if __name__ == "__main__":
    main()
