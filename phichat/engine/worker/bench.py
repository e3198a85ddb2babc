"""How fast a model reads and writes here, measured as llama-bench does, and how fast memory is."""

from __future__ import annotations

import ctypes
import ctypes.util
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from phichat.engine.protocol import Bench, Benched, Evaluating, Failure, Reply
from phichat.engine.worker.model import Model, RequestFailed

_REGION = 512 * 1024 * 1024
"""Bytes that all threads read together, far more than any cache holds."""

_LEAST_REGION = 32 * 1024 * 1024


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
    steps = 2 * (request.repeats + 1)
    taken = 0

    def step(tokens_per_run: int, run: Callable[[], bool]) -> float:
        nonlocal taken
        model.clear()
        start = perf_counter()
        if not run():
            raise RequestFailed(Failure.CANCELLED, "the measurement was cancelled")
        model.synchronize()
        seconds = perf_counter() - start
        taken += 1
        send(Evaluating(taken, steps, 0))
        return tokens_per_run / seconds

    def read() -> bool:
        return model.evaluate(tokens[: request.prompt_tokens], lambda _: None)

    def write() -> bool:
        return all(model.append(tokens[at % len(tokens)]) for at in range(request.generated_tokens))

    send(Evaluating(0, steps, 0))
    # The speed of a shared machine drifts: the two are taken in turn.
    step(request.prompt_tokens, read)
    step(request.generated_tokens, write)
    prompt, generation = [], []
    for _ in range(request.repeats):
        prompt.append(step(request.prompt_tokens, read))
        generation.append(step(request.generated_tokens, write))
    model.clear()
    return Benched(tuple(prompt), tuple(generation), memory_bandwidth(model.request.threads))


def memory_bandwidth(threads: int) -> float:
    """Bytes per second that so many threads read from memory together, the best of three passes.

    libc's memchr for a byte that is not there reads as fast as the CPU can, outside the interpreter's lock.
    """
    libc = ctypes.CDLL("msvcrt" if sys.platform == "win32" else ctypes.util.find_library("c"))
    memchr = libc.memchr
    memchr.restype, memchr.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    region = max(_REGION // threads, _LEAST_REGION)
    # Filled, for pages that were never written all map to one page of zeros.
    buffers = [ctypes.create_string_buffer(region) for _ in range(threads)]
    for buffer in buffers:
        ctypes.memset(buffer, 1, region)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(3):
            start = perf_counter()
            list(pool.map(lambda buffer: memchr(buffer, 0xFF, region), buffers))
            best = max(best, threads * region / (perf_counter() - start))
    return best
