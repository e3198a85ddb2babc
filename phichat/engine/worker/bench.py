"""How fast a model reads and writes here, measured as llama-bench does, and how fast memory is."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from time import perf_counter

from phichat.engine.bandwidth import memory_bandwidth
from phichat.engine.protocol import Bench, Benched, Evaluating, Failure, Reply
from phichat.engine.worker.model import Model
from phichat.engine.worker.sequences import Decoded, RequestFailed


def bench(model: Model, request: Bench, send: Callable[[Reply], None]) -> Benched:
    """Time `repeats` prompts and `repeats` generations after one warm-up of each.

    The prompt is evaluated from an empty context in the batches that a chat uses; generation
    evaluates one token after the other from an empty context, without sampling: llama-bench's pp and tg.
    Raises RequestFailed when it is cancelled, or when the tokens do not fit the context.
    """
    if max(request.prompt_tokens, request.generated_tokens) > model.n_ctx:
        raise RequestFailed(Failure.OVERFLOW, "the context is too small for this test", request.prompt_tokens)
    source = random.Random(0)
    tokens = [source.randrange(model.vocabulary.size) for _ in range(max(request.prompt_tokens, 1))]
    sequence = model.sequences.all[0]
    steps = 2 * (request.repeats + 1)
    taken = 0

    def step(tokens_per_run: int, run: Callable[[], bool]) -> float:
        nonlocal taken
        sequence.clear()
        start = perf_counter()
        if not run():
            raise RequestFailed(Failure.CANCELLED, "the measurement was cancelled")
        model.synchronize()
        seconds = perf_counter() - start
        taken += 1
        send(Evaluating(taken, steps, 0))
        return tokens_per_run / seconds

    def evaluated(tokens: Sequence[int]) -> bool:
        return sequence.decode(tokens) is Decoded.DONE

    def read() -> bool:
        starts = range(0, request.prompt_tokens, model.n_batch)
        return all(evaluated(tokens[at : min(at + model.n_batch, request.prompt_tokens)]) for at in starts)

    def write() -> bool:
        return all(evaluated((tokens[at % len(tokens)],)) for at in range(request.generated_tokens))

    send(Evaluating(0, steps, 0))
    # The speed of a shared machine drifts: the two are taken in turn.
    step(request.prompt_tokens, read)
    step(request.generated_tokens, write)
    prompt, generation = [], []
    for _ in range(request.repeats):
        prompt.append(step(request.prompt_tokens, read))
        generation.append(step(request.generated_tokens, write))
    sequence.clear()
    return Benched(tuple(prompt), tuple(generation), memory_bandwidth(model.request.threads))
