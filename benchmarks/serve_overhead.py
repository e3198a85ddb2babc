"""Time that `phichat serve` adds until the first token, against the same engine without it.

    python benchmarks/serve_overhead.py [-r REPEATS] [-p WORDS ...] [-m MODEL]

Interleaved, each prompt a new one to both; the first piece of the answer, on one connection a request.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
from time import monotonic

from common import limit, phichat, phichat_home, say, spread

from phichat.cancel import CancelToken
from phichat.config.settings import load_config
from phichat.engine.backend import Backend
from phichat.events import ReasoningDelta, TextDelta
from phichat.paths import Paths
from phichat.services.app_context import AppContext
from phichat.services.backend_factory import BackendFactory
from phichat.types import Message, Role, SamplingParams

TOKENS = 4


def prompt(number: int, words: int) -> str:
    """One that nothing of is in the KV cache."""
    return f"{number} " + "the quick brown fox jumps " * (words // 5)


def by_engine(backend: Backend, text: str) -> float:
    """Milliseconds."""
    began = monotonic()
    first = 0.0
    params = SamplingParams(temperature=0.0, max_tokens=TOKENS)
    for event in backend.generate([Message(Role.USER, text)], params, CancelToken()):
        if not first and isinstance(event, (TextDelta, ReasoningDelta)):
            first = monotonic()
    return 1e3 * (first - began)


def by_server(port: int, text: str) -> float:
    """Milliseconds, connecting counted in."""
    asked = {
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": TOKENS,
        "stream": True,
    }
    began = monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/v1/chat/completions", json.dumps(asked))
    answer = connection.getresponse()
    first = 0.0
    while line := answer.readline():
        if not first and line.startswith(b"data: {"):
            (choice,) = json.loads(line[6:])["choices"]
            if choice["delta"].get("content") or choice["delta"].get("reasoning_content"):
                first = monotonic()
    connection.close()
    return 1e3 * (first - began)


def main() -> None:
    """Print both, and the difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-r", "--repeats", type=int, default=15)
    parser.add_argument("-p", "--words", type=int, nargs="*", default=[20, 500])
    parser.add_argument("-m", "--model")
    given = parser.parse_args()
    model = ["-m", given.model] if given.model else []
    worst = 0.0
    with phichat_home() as env:
        paths = Paths.from_environment(env)
        backend = BackendFactory(
            AppContext(load_config({"model": given.model}, paths.config_file), paths)
        ).create_local_backend()
        list(backend.load(CancelToken()))
        server = subprocess.Popen(phichat("serve", "--port", 0, *model), env=env, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            while "Listening on " not in (line := server.stderr.readline()):
                assert line
            port = int(line.split("//")[1].split("/")[0].rsplit(":", 1)[1])
            by_server(port, "load")
            for words in given.words:
                texts = [prompt(number, words) for number in range(given.repeats)]
                each = [(by_engine(backend, text), by_server(port, text)) for text in texts]
                say(f"{words} words: engine {spread([one for one, _ in each])} ms")
                say(f"{words} words: serve  {spread([other for _, other in each])} ms")
                more = statistics.median(other - one for one, other in each)
                limit(f"{words} words: time to the first token above the engine's own", more, 20, "ms")
                worst = max(worst, more)
        finally:
            server.terminate()
            server.wait(20)
            subprocess.run(phichat("stop"), env=env, stdout=subprocess.DEVNULL, check=False)
            backend.close()
    raise SystemExit(worst > 20)


if __name__ == "__main__":
    main()
