"""Memory bandwidth, which bounds the speed of generation."""

import sys
from time import perf_counter

_TOTAL_BUFFER_BYTES = 512 * 1024 * 1024
"""Read by all threads together; far more than any cache holds."""
_MIN_BUFFER_BYTES = 32 * 1024 * 1024


def measure_memory_bandwidth(threads: int) -> float:
    """Return the bytes per second that this many threads read from memory together, the best of three passes.
    libc's memchr for a byte that does not occur reads as fast as the CPU can, outside the interpreter's lock."""
    import ctypes
    import ctypes.util
    from concurrent.futures import ThreadPoolExecutor

    memchr = ctypes.CDLL("msvcrt" if sys.platform == "win32" else ctypes.util.find_library("c")).memchr
    memchr.restype, memchr.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    buffer_bytes = max(_TOTAL_BUFFER_BYTES // threads, _MIN_BUFFER_BYTES)
    # Filled, since pages that were never written all map to one page of zeros.
    buffers = [ctypes.create_string_buffer(buffer_bytes) for _ in range(threads)]
    for buffer in buffers:
        ctypes.memset(buffer, 1, buffer_bytes)
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(3):
            start = perf_counter()
            list(pool.map(lambda buffer: memchr(buffer, 0xFF, buffer_bytes), buffers))
            best = max(best, threads * buffer_bytes / (perf_counter() - start))
    return best


def lookup_gpu_bandwidth(description: str) -> float | None:
    """Return the bytes per second of a GPU's memory by the name of the product; None for an unknown one.
    From the manufacturers' data sheets; of several variants the slowest."""
    words = f" {description.lower()} ".replace("-", " ")
    matches = [name for name in _GPU_BANDWIDTHS_GB_S if f" {name} " in words]
    return _GPU_BANDWIDTHS_GB_S[max(matches, key=len)] * 1e9 if matches else None


# One row per generation reads as a table.
# fmt: off
_GPU_BANDWIDTHS_GB_S = {
    "rtx 5090": 1792, "rtx 5080": 960, "rtx 5070 ti": 896, "rtx 5070": 672, "rtx 5060 ti": 448, "rtx 5060": 448,
    "rtx 4090": 1008, "rtx 4080 super": 736, "rtx 4080": 717, "rtx 4070 ti super": 672, "rtx 4070 ti": 504,
    "rtx 4070": 504, "rtx 4060 ti": 288, "rtx 4060": 272,
    "rtx 4090 laptop": 576, "rtx 4080 laptop": 432, "rtx 4070 laptop": 256, "rtx 4060 laptop": 256,
    "rtx 3090 ti": 1008, "rtx 3090": 936, "rtx 3080 ti": 912, "rtx 3080": 760, "rtx 3070 ti": 608, "rtx 3070": 448,
    "rtx 3060 ti": 448, "rtx 3060": 360, "rtx 2080 ti": 616, "rtx 2080": 448, "rtx 2070": 448, "rtx 2060": 336,
    "h200": 4800, "h100": 2000, "a100": 1555, "l40s": 864, "l40": 864, "l4": 300, "a10g": 600, "a10": 600, "t4": 320,
    "v100": 900, "rx 9070 xt": 640, "rx 9070": 640, "rx 7900 xtx": 960, "rx 7900 xt": 800, "rx 7800 xt": 624,
    "rx 7700 xt": 432, "rx 7600": 288, "rx 6900 xt": 512, "rx 6800 xt": 512, "rx 6800": 512, "rx 6700 xt": 384,
    "arc a770": 512, "arc b580": 456,
    "m1": 68, "m1 pro": 200, "m1 max": 400, "m1 ultra": 800, "m2": 100, "m2 pro": 200, "m2 max": 400, "m2 ultra": 800,
    "m3": 100, "m3 pro": 150, "m3 max": 300, "m3 ultra": 819, "m4": 120, "m4 pro": 273, "m4 max": 410,
}
# fmt: on
