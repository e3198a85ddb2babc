"""The embedded real model, for the tests that need one."""

import functools
from pathlib import Path

import pytest

from phichat.errors import ModelNotInstalled
from phichat.models.resolve import resolve


@functools.cache
def embedded_model() -> Path:
    """Its file; skips the test where the `demo` extra is not installed."""
    try:
        return resolve(None).path
    except ModelNotInstalled:
        pytest.skip("the demo extra is not installed")
