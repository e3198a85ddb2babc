"""The embedded real model, and what a machine may say about itself when it is loaded."""

import functools
from pathlib import Path

import pytest

from phichat.models.local.discovery import find_packaged_model
from phichat.models.local.local_models import DEMO_MODEL
from phichat.models.registry import read_registry


@functools.cache
def embedded_model() -> Path:
    """Its file. Skips the test where the `demo` extra is not installed."""
    path = find_packaged_model(read_registry()[DEMO_MODEL])
    if path is None:
        pytest.skip("the demo extra is not installed")
    return path


def without_machine_remarks(stderr: str) -> str:
    """stderr without the lines that depend on the CPU and the GPU of the machine the tests run on."""
    about_the_machine = ("crashes in this CPU's own buffer types", "was built for CPU only")
    lines = stderr.splitlines(keepends=True)
    return "".join(line for line in lines if not any(remark in line for remark in about_the_machine))


def no_other_models(folder: Path) -> dict[str, str]:
    """An environment in which the models that the user of this machine has are not seen."""
    home, hub, ollama = str(folder), str(folder / "hub"), str(folder / "ollama")
    return {"HOME": home, "USERPROFILE": home, "HF_HUB_CACHE": hub, "OLLAMA_MODELS": ollama}
