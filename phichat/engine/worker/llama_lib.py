"""llama.cpp's shared library: quick loading, its log, its devices."""

import contextlib
import ctypes
import importlib.util
import re
import sys
from collections import deque
from importlib.metadata import version
from pathlib import Path
from typing import Any

from phichat.engine.ipc.protocol import DeviceInfo, EngineInfo

_WARNING, _ERROR, _CONTINUED = 3, 4, 5
_DEVICE_TYPES = ("cpu", "gpu", "igpu", "accel", "meta")  # ggml_backend_dev_type, in its order
_GENERIC_ERROR = r"[Ff]ailed to (load model|create context|initialize)"
"""llama.cpp's log lines that follow the one with the reason."""
_OUT_OF_MEMORY = r"alloc\w* .*fail|fail\w* to (allocate|reserve)|out of memory|unable to allocate|bad_alloc"


def load_library() -> Any:
    """Import the low-level bindings alone.

    `import llama_cpp` takes about 150 ms, nearly all of it for the high-level API with numpy, which is not used here.
    A package object without its __init__ lets the one module be imported in 20 ms.
    Raises ModuleNotFoundError, or what ctypes raises when the shared library does not load.
    """
    if "llama_cpp" not in sys.modules:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None:
            raise ModuleNotFoundError("llama-cpp-python is not installed", name="llama_cpp")
        sys.modules["llama_cpp"] = importlib.util.module_from_spec(spec)
    return importlib.import_module("llama_cpp.llama_cpp")


class LlamaLog:
    """Last warnings and errors that llama.cpp logged; none of them reaches a file descriptor."""

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
        """Return the line with the reason why the last call failed, "" without one."""
        errors = (line for level, line in reversed(self._lines) if level == _ERROR)
        reasons = (re.sub(r"^\w+: (error loading model[^:]*: )?", "", line) for line in errors)
        return next((reason for reason in reasons if reason and not re.search(_GENERIC_ERROR, reason)), "")

    def mentions_out_of_memory(self) -> bool:
        """Return True if an allocation failed."""
        return any(re.search(_OUT_OF_MEMORY, line) for _, line in self._lines)


def _bind_function(lib: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Return a function of ggml: on Windows a symbol is only found in its own DLL."""
    from llama_cpp._ctypes_extensions import load_shared_library

    for library in (None, "ggml", "ggml-base"):
        with contextlib.suppress(AttributeError, FileNotFoundError, RuntimeError):
            function = (load_shared_library(library, Path(lib._base_path)) if library else lib._lib)[name]
            function.restype, function.argtypes = result, arguments
            return function
    raise AttributeError(name)


def list_devices(lib: Any) -> tuple[DeviceInfo, ...]:
    """Return ggml's device list with the memory that is free now."""
    pointer, size, size_pointer = ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_size_t)
    get_count = _bind_function(lib, "ggml_backend_dev_count", size)
    get_device = _bind_function(lib, "ggml_backend_dev_get", pointer, size)
    get_name = _bind_function(lib, "ggml_backend_dev_name", ctypes.c_char_p, pointer)
    get_description = _bind_function(lib, "ggml_backend_dev_description", ctypes.c_char_p, pointer)
    get_type = _bind_function(lib, "ggml_backend_dev_type", ctypes.c_int, pointer)
    get_memory = _bind_function(lib, "ggml_backend_dev_memory", None, pointer, size_pointer, size_pointer)
    devices = []
    for device in map(get_device, range(get_count())):
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        get_memory(device, ctypes.byref(free), ctypes.byref(total))
        name, description = (get(device).decode("utf-8", "replace") for get in (get_name, get_description))
        kind = dict(enumerate(_DEVICE_TYPES)).get(get_type(device), "other")
        devices.append(DeviceInfo(name, description, kind, total.value, free.value))
    return tuple(devices)


def build_engine_info(lib: Any) -> EngineInfo:
    """Return what the supervisor has to know before it can plan."""
    system_info = lib.llama_print_system_info().decode("utf-8", "replace").strip()
    library_file, supports_offload = lib._lib._name, lib.llama_supports_gpu_offload()
    return EngineInfo(version("llama-cpp-python"), library_file, system_info, supports_offload, list_devices(lib))
