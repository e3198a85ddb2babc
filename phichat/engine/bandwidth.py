"""How fast memory is read here, which bounds how fast a model generates."""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

_REGION = 512 * 1024 * 1024
"""Bytes that all threads read together, far more than any cache holds."""

_LEAST_REGION = 32 * 1024 * 1024


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
