"""llama.cpp's shared library: loaded cheaply, its log kept, its devices listed."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import re
import sys
from collections import deque
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from phichat.engine.ipc.protocol import DeviceInfo, EngineInfo

_WARNING, _ERROR, _CONTINUED = 3, 4, 5
_DEVICE_TYPES = ("cpu", "gpu", "igpu", "accel", "meta")
"""ggml_backend_dev_type, in its order."""
_GENERIC_ERROR = r"[Ff]ailed to (load model|create context|initialize)"
"""llama.cpp's lines that follow the one with the reason."""


def load_library() -> Any:
    """The low-level bindings alone.

    `import llama_cpp` takes about 150 ms, nearly all of it for the high-level API with numpy, which
    is not used here. A package object without its __init__ lets the one module be imported in 20 ms.
    Raises ModuleNotFoundError, or what ctypes raises when the shared library does not load.
    """
    if "llama_cpp" not in sys.modules:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError("llama-cpp-python is not installed", name="llama_cpp")
        package = ModuleType("llama_cpp")
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        sys.modules["llama_cpp"] = package
    return importlib.import_module("llama_cpp.llama_cpp")


class LlamaLog:
    """The last lines that llama.cpp logged; none of them reaches a file descriptor."""

    def __init__(self, lib: Any) -> None:
        self._lines: deque[tuple[int, str]] = deque(maxlen=60)
        # ctypes keeps no reference of its own to the callback.
        self._callback = lib.llama_log_callback(self._on_log)
        lib.llama_log_set(self._callback, None)

    def _on_log(self, level: int, text: bytes, _: object) -> None:
        if level in (_WARNING, _ERROR) or (level == _CONTINUED and self._lines):
            self._lines.append((level, text.decode("utf-8", "replace").strip()))

    def clear(self) -> None:
        self._lines.clear()

    def last_error(self) -> str:
        """The line that says why the last call failed, or nothing."""
        errors = [line for level, line in self._lines if level == _ERROR]
        reasons = [re.sub(r"^\w+: (error loading model[^:]*: )?", "", line) for line in errors]
        specific = [reason for reason in reasons if reason and not re.search(_GENERIC_ERROR, reason)]
        return specific[-1] if specific else ""

    def mentions_out_of_memory(self) -> bool:
        """Whether an allocation failed."""
        return any(
            re.search(r"alloc\w* .*fail|fail\w* to (allocate|reserve)|out of memory|unable to allocate|bad_alloc", line)
            for _, line in self._lines
        )


def _iter_ggml_libs(lib: Any) -> Iterator[ctypes.CDLL]:
    """The libraries that hold ggml's functions: on Windows each symbol is found in its own DLL only."""
    from llama_cpp._ctypes_extensions import load_shared_library

    yield lib._lib
    for name in ("ggml", "ggml-base"):
        with contextlib.suppress(FileNotFoundError, RuntimeError):
            yield load_shared_library(name, Path(lib._base_path))


def _bind_function(lib: Any, name: str, result: Any, *arguments: Any) -> Any:
    for library in _iter_ggml_libs(lib):
        with contextlib.suppress(AttributeError):
            function = library[name]
            function.restype, function.argtypes = result, arguments
            return function
    raise AttributeError(name)


def list_devices(lib: Any) -> tuple[DeviceInfo, ...]:
    """ggml's device list with the memory that is free now."""
    get_count = _bind_function(lib, "ggml_backend_dev_count", ctypes.c_size_t)
    get_device = _bind_function(lib, "ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    get_name = _bind_function(lib, "ggml_backend_dev_name", ctypes.c_char_p, ctypes.c_void_p)
    get_description = _bind_function(lib, "ggml_backend_dev_description", ctypes.c_char_p, ctypes.c_void_p)
    get_type = _bind_function(lib, "ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    sizes = ctypes.POINTER(ctypes.c_size_t)
    get_memory = _bind_function(lib, "ggml_backend_dev_memory", None, ctypes.c_void_p, sizes, sizes)
    device_infos = []
    for index in range(get_count()):
        device = get_device(index)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        get_memory(device, ctypes.byref(free), ctypes.byref(total))
        device_type = get_type(device)
        device_infos.append(
            DeviceInfo(
                get_name(device).decode("utf-8", "replace"),
                get_description(device).decode("utf-8", "replace"),
                _DEVICE_TYPES[device_type] if device_type < len(_DEVICE_TYPES) else "other",
                total.value,
                free.value,
            )
        )
    return tuple(device_infos)


def build_engine_info(lib: Any) -> EngineInfo:
    """What the supervisor has to know before it can plan."""
    return EngineInfo(
        version("llama-cpp-python"),
        lib._lib._name,
        lib.llama_print_system_info().decode("utf-8", "replace").strip(),
        lib.llama_supports_gpu_offload(),
        list_devices(lib),
    )
