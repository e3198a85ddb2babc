"""Cost per token of phichat's remote backend, against the openai client on the same server.

    python benchmarks/remote_overhead.py URL MODEL [-n TOKENS] [-r REPEATS]
    python benchmarks/remote_overhead.py              a server of our own that says thousands of tokens a second

Interleaved; medians of the time from the first piece to the last, a piece.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
from pathlib import Path
from time import monotonic

import openai
from common import limit, say, spread

from phichat.cancel import CancelToken
from phichat.config.endpoints import Endpoint, EndpointModel
from phichat.engine.remote.backend import RemoteBackend
from phichat.events import TextDelta
from phichat.types import Message, Role, SamplingParams

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.fake_openai_server import Answer, chunk, serving

PROMPT = "Tell a long story about the sea."


def bare(url: str, model: str, tokens: int) -> float:
    """Seconds a piece with the openai client alone."""
    client = openai.OpenAI(base_url=url, api_key="-", max_retries=0)
    asked = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": PROMPT}], stream=True, max_tokens=tokens, temperature=0
    )
    times = [monotonic() for said in asked if said.choices and said.choices[0].delta.content]
    client.close()
    return (times[-1] - times[0]) / (len(times) - 1)


def ours(url: str, model: str, tokens: int) -> float:
    """Seconds a piece with the backend."""
    backend = RemoteBackend(EndpointModel(Endpoint("lab", url), model), "")
    list(backend.load(CancelToken()))
    params = SamplingParams(temperature=0.0, max_tokens=tokens)
    said = backend.generate([Message(Role.USER, PROMPT)], params, CancelToken())
    times = [monotonic() for event in said if isinstance(event, TextDelta)]
    backend.close()
    return (times[-1] - times[0]) / (len(times) - 1)


def main() -> None:
    """Print both, and the share that is ours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?")
    parser.add_argument("model", nargs="?", default="tiny")
    parser.add_argument("-n", "--tokens", type=int, default=200)
    parser.add_argument("-r", "--repeats", type=int, default=7)
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        url = given.url
        if url is None:
            pieces = (*(chunk(content=f" {at}") for at in range(given.tokens)), chunk("stop"))
            url = stack.enter_context(serving(Answer(pieces))).url
        each = [
            (bare(url, given.model, given.tokens), ours(url, given.model, given.tokens)) for _ in range(given.repeats)
        ]
    say(f"bare openai client: {spread([1e6 * one for one, _ in each])} µs a piece")
    say(f"remote backend:     {spread([1e6 * other for _, other in each])} µs a piece")
    share = statistics.median(other / one for one, other in each) - 1
    limit("overhead a token (negative is faster)", 100 * share, 5, "%")
    raise SystemExit(share > 0.05)


if __name__ == "__main__":
    main()
