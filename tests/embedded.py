"""The embedded real model, and what a machine may say about itself when it is loaded."""

import functools
from pathlib import Path

import pytest
from phichat.models.resolve import resolve

from phichat.errors import ModelNotInstalled


@functools.cache
def embedded_model() -> Path:
    """Its file; skips the test where the `demo` extra is not installed."""
    try:
        return resolve(None).path
    except ModelNotInstalled:
        pytest.skip("the demo extra is not installed")


def without_machine_remarks(stderr: str) -> str:
    """stderr without the lines that depend on the CPU and the GPU of the machine the tests run on."""
    about_the_machine = ("crashes in this CPU's own buffer types", "was built for CPU only")
    lines = stderr.splitlines(keepends=True)
    return "".join(line for line in lines if not any(remark in line for remark in about_the_machine))
