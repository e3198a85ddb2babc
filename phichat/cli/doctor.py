"""`phichat doctor`: what is here, what is wrong with it, and what to do about each."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import click

from phichat import __version__
from phichat.cli.diagnostics import ExitCode
from phichat.cli.options import configure, model_and_engine_options
from phichat.cli.output import Output
from phichat.cli.tables import size
from phichat.config import Config
from phichat.engine.cancel import Cancel
from phichat.engine.protocol import Hello
from phichat.errors import ConfigError, ModelNotInstalled, PhichatError, UsageError
from phichat.models.places import Source
from phichat.paths import Paths

_REBUILD = "rebuild llama-cpp-python with a newer compiler, or as the README says under AMX"


class Health(StrEnum):
    """How a finding is."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line; remedy is empty where there is nothing to do."""

    subject: str
    found: str
    health: Health = Health.GOOD
    remedy: str = ""


@click.command()
@click.option("--online", is_flag=True, help="Ask the hub, too, whether it answers.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@model_and_engine_options
def doctor(online: bool, as_json: bool, **flags: Any) -> int:
    """Tell what is here and what is wrong with it.

    Looks at Python, the engine's library, the devices, memory, disks and models; connects nowhere without
    --online. Loads the chosen model once, which also finds out whether this build of the library runs
    on this CPU.
    """
    paths = Paths.find()
    findings = list(_examine(configure(paths, **flags), paths))
    if online:
        findings.append(_hub())
    output = Output()
    if as_json:
        output.document([asdict(finding) for finding in findings])
    else:
        marks = {Health.GOOD: " ", Health.WARNING: "!", Health.BAD: "x"}
        for finding in findings:
            output.text(f"{marks[finding.health]} {finding.subject:<14}{finding.found}")
            if finding.remedy:
                output.text(f"{'':<16}-> {finding.remedy}")
    return ExitCode.ERROR if any(finding.health is Health.BAD for finding in findings) else ExitCode.DONE


def _examine(config: Config, paths: Paths) -> Iterator[Finding]:
    yield Finding("phichat", __version__)
    yield Finding("Python", f"{platform.python_version()} on {platform.platform()} ({sys.executable})")
    yield from _settings(paths)
    hello = _hello()
    if isinstance(hello, PhichatError):
        yield Finding("engine", hello.message, Health.BAD, hello.next_step)
        return
    yield Finding("library", f"llama-cpp-python {hello.library_version}, {hello.library_file}")
    yield Finding("built for", hello.system_info)
    yield from _machine(hello)
    yield from _disk(paths)
    yield _states(config, paths)
    yield from _models(config, paths)
    yield from _trial(config, paths)


def _settings(paths: Paths) -> Iterator[Finding]:
    state = "" if paths.config_file.is_file() else " (none yet)"
    yield Finding("settings", f"{paths.config_file}{state}")


def _hello() -> Hello | PhichatError:
    from phichat.engine.link import Deadlines
    from phichat.engine.process import EngineProcess

    try:
        process = EngineProcess(Deadlines())
        hello = process.hello(Cancel())
        process.close()
    except PhichatError as why:
        return why
    assert hello is not None, "nothing cancels it"
    return hello


def _machine(hello: Hello) -> Iterator[Finding]:
    from phichat.engine.hardware import probe_memory, probe_with, unused_gpu, usable_cores

    machine = probe_with(hello)
    for device in hello.devices:
        yield Finding(
            "device",
            f"{device.name}: {device.description}, {device.memory_free / 1e9:.1f} of "
            f"{device.memory_total / 1e9:.1f} GB free",
        )
    if unused := unused_gpu(machine):
        yield Finding("GPU", unused, Health.WARNING, "build llama-cpp-python for it as the README says")
    yield Finding("cores", f"{usable_cores()} that the engine computes with")
    memory = probe_memory()
    yield Finding("memory", f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free")


def _models(config: Config, paths: Paths) -> Iterator[Finding]:
    from phichat.models.checking import next_step
    from phichat.models.library import Library

    try:
        library = Library.open(paths)
        for source in Source:
            found = [model for model in library.installed if model.source is source]
            if found:
                total = sum(model.size for model in found)
                names = ", ".join(model.name for model in found)
                yield Finding("models", f"{len(found)} from {source}, {size(total)}: {names}")
        for model in library.installed:
            if (facts := library.facts(model)).damaged:
                yield Finding("damaged", f"{model.name}: {facts.problem}", Health.WARNING, next_step(model))
        chosen = library.choose(config.model)
    except (ModelNotInstalled, UsageError, ConfigError) as why:
        yield Finding("chosen", why.message, Health.WARNING, why.next_step)
    else:
        yield Finding("chosen", f"{chosen.model.name}, {chosen.model.path}")


def _disk(paths: Paths) -> Iterator[Finding]:
    """Free space where models are kept, and the state of the hub's cache."""
    from phichat.models.health import examine

    for subject, folder in (("hub cache", paths.models), ("downloads", paths.downloads)):
        disk = next(path for path in (folder, *folder.parents) if path.is_dir())
        yield Finding(subject, f"{folder}, {size(shutil.disk_usage(disk).free)} free")
    health = examine(paths.models, paths.downloads)
    for part in health.unfinished:
        there = f"{size(part.done)} of {size(part.total)}" if part.total else size(part.done)
        found = f"{there} of a file of {part.repository or 'a plain address'} are there, {part.path.name}"
        remedy = f"`phichat pull {part.repository or 'ADDRESS'}` goes on with it, or remove {part.path}"
        yield Finding("unfinished", found, Health.WARNING, remedy)
    for link in health.dangling:
        yield Finding(
            "dangling", f"{link} leads to nothing", Health.WARNING, "pull that model again, or remove the link"
        )
    if health.unlinked:
        count = len(health.unlinked)
        found = f"{count} files of the hub cache, {size(health.unlinked_size)}, belong to no model"
        yield Finding("unlinked", found, Health.WARNING, f"remove them, such as {health.unlinked[0]}")


def _states(config: Config, paths: Paths) -> Finding:
    """The KV states on disk."""
    from phichat.wiring import states_folder

    folder = states_folder(config, paths)
    if not folder.budget:
        return Finding("KV states", f"{paths.states}, {size(folder.size)}; no more are kept")
    return Finding("KV states", f"{paths.states}, {size(folder.size)} of at most {size(folder.budget)}")


def _hub() -> Finding:
    from phichat.models.hub import Hub

    try:
        return Finding("hub", Hub().reachable())
    except PhichatError as why:
        return Finding("hub", why.message, Health.BAD, why.next_step)


def _tunings(paths: Paths) -> Iterator[Finding]:
    """What `bench --tune` found, here or on another machine with the same home."""
    from phichat.engine.tuning import Tunings

    for entry in Tunings(paths.engine_tunings).all().values():
        match entry:
            case {"cpu": str(cpu), "sizes": [int(least), int(most)]}:
                models = f"models of {size(least)} to {size(most)} on {cpu}"
            case _:
                continue
        match entry:
            case {"threads": int(threads), "prompt_threads": int(prompt)}:
                yield Finding("tuned", f"{threads} threads to write and {prompt} to read, {models}")
            case {"spin_count": int(count)}:
                yield Finding("tuned", f"{count:,} spins at a barrier, {models}")


def _trial(config: Config, paths: Paths) -> Iterator[Finding]:
    """Load the chosen model, then tell every verdict there is."""
    from phichat.engine.verdicts import Verdict, Verdicts
    from phichat.wiring import local_backend

    try:
        backend = local_backend(config, paths)
    except (ModelNotInstalled, UsageError, ConfigError):
        return
    try:
        for _ in backend.load(Cancel()):
            pass
        where = "CPU only" if not backend.plan.n_gpu_layers else f"{backend.plan.n_gpu_layers} layers on GPUs"
        yield Finding("loads", f"with a context of {backend.n_ctx:,} tokens, {where}")
    except PhichatError as why:
        yield Finding("loads", why.message, Health.BAD, why.next_step)
    finally:
        backend.close()
    yield from _tunings(paths)
    for entry in Verdicts(paths.engine_verdicts).all().values():
        crashes = entry["verdict"] == Verdict.CRASHES
        library = Path(entry["library"]).name
        yield Finding(
            "CPU buffers",
            f"{library} {entry['verdict']} with the buffer types of {entry['cpu']} for {entry['weights']}",
            Health.WARNING if crashes else Health.GOOD,
            _REBUILD if crashes else "",
        )
