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
from phichat.cancel import CancelToken
from phichat.cli.support.diagnostics import ExitCode
from phichat.cli.support.options import build_config, model_and_engine_options
from phichat.cli.support.output import Output
from phichat.cli.support.tables import format_size
from phichat.config.settings import Config
from phichat.engine.ipc.protocol import EngineInfo
from phichat.errors import ConfigError, ModelNotInstalled, PhichatError, UsageError
from phichat.models.local.locations import ModelSource
from phichat.paths import Paths

_REBUILD_REMEDY = "rebuild llama-cpp-python with a newer compiler, or as the README says under AMX"


class CheckStatus(StrEnum):
    """How a finding is."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line; remedy is empty where there is nothing to do."""

    subject: str
    found: str
    health: CheckStatus = CheckStatus.GOOD
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
    paths = Paths.from_environment()
    findings = list(_run_checks(build_config(paths, **flags), paths))
    if online:
        findings.append(_check_hub())
    output = Output()
    if as_json:
        output.write_json([asdict(finding) for finding in findings])
    else:
        marks = {CheckStatus.GOOD: " ", CheckStatus.WARNING: "!", CheckStatus.BAD: "x"}
        for finding in findings:
            output.write_text(f"{marks[finding.health]} {finding.subject:<14}{finding.found}")
            if finding.remedy:
                output.write_text(f"{'':<16}-> {finding.remedy}")
    return ExitCode.ERROR if any(finding.health is CheckStatus.BAD for finding in findings) else ExitCode.DONE


def _run_checks(config: Config, paths: Paths) -> Iterator[CheckResult]:
    yield CheckResult("phichat", __version__)
    yield CheckResult("Python", f"{platform.python_version()} on {platform.platform()} ({sys.executable})")
    yield from _check_settings(paths)
    hello = _probe_engine()
    if isinstance(hello, PhichatError):
        yield CheckResult("engine", hello.message, CheckStatus.BAD, hello.next_step)
        return
    yield CheckResult("library", f"llama-cpp-python {hello.library_version}, {hello.library_file}")
    yield CheckResult("built for", hello.system_info)
    yield from _check_machine(hello)
    yield from _check_disk(paths)
    yield _check_kv_store(config, paths)
    yield from _check_models(config, paths)
    yield from _check_load(config, paths)


def _check_settings(paths: Paths) -> Iterator[CheckResult]:
    suffix = "" if paths.config_file.is_file() else " (none yet)"
    yield CheckResult("settings", f"{paths.config_file}{suffix}")


def _probe_engine() -> EngineInfo | PhichatError:
    from phichat.engine.ipc.connection import EngineTimeouts
    from phichat.engine.ipc.process import EngineProcess

    try:
        process = EngineProcess(EngineTimeouts())
        hello = process.handshake(CancelToken())
        process.close()
    except PhichatError as error:
        return error
    assert hello is not None, "nothing cancels it"
    return hello


def _check_machine(hello: EngineInfo) -> Iterator[CheckResult]:
    from phichat.engine.planner.hardware import count_usable_cores, describe_unused_gpu, probe_from_engine, probe_memory

    machine = probe_from_engine(hello)
    for device in hello.devices:
        yield CheckResult(
            "device",
            f"{device.name}: {device.description}, {device.memory_free / 1e9:.1f} of "
            f"{device.memory_total / 1e9:.1f} GB free",
        )
    if unused := describe_unused_gpu(machine):
        yield CheckResult("GPU", unused, CheckStatus.WARNING, "build llama-cpp-python for it as the README says")
    yield CheckResult("cores", f"{count_usable_cores()} that the engine computes with")
    memory = probe_memory()
    yield CheckResult("memory", f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free")


def _check_models(config: Config, paths: Paths) -> Iterator[CheckResult]:
    from phichat.models.local.local_models import LocalModels
    from phichat.models.local.verification import suggest_fix

    try:
        library = LocalModels.from_paths(paths)
        for source in ModelSource:
            models = [model for model in library.models if model.source is source]
            if models:
                total = sum(model.size for model in models)
                names = ", ".join(model.name for model in models)
                yield CheckResult("models", f"{len(models)} from {source}, {format_size(total)}: {names}")
        for model in library.models:
            if (facts := library.get_summary(model)).damaged:
                yield CheckResult("damaged", f"{model.name}: {facts.problem}", CheckStatus.WARNING, suggest_fix(model))
        selected = library.select_model(config.model)
    except (ModelNotInstalled, UsageError, ConfigError) as error:
        yield CheckResult("chosen", error.message, CheckStatus.WARNING, error.next_step)
    else:
        yield CheckResult("chosen", f"{selected.model.name}, {selected.model.path}")


def _check_disk(paths: Paths) -> Iterator[CheckResult]:
    """Free space where models are kept, and the state of the hub's cache."""
    from phichat.models.download.cache_diagnostics import diagnose_cache

    for subject, folder in (("hub cache", paths.models), ("downloads", paths.downloads)):
        disk = next(path for path in (folder, *folder.parents) if path.is_dir())
        yield CheckResult(subject, f"{folder}, {format_size(shutil.disk_usage(disk).free)} free")
    health = diagnose_cache(paths.models, paths.downloads)
    for part in health.partial_downloads:
        size_text = (
            f"{format_size(part.downloaded)} of {format_size(part.total)}"
            if part.total
            else format_size(part.downloaded)
        )
        result = f"{size_text} of a file of {part.repository or 'a plain address'} are there, {part.path.name}"
        remedy = f"`phichat pull {part.repository or 'ADDRESS'}` goes on with it, or remove {part.path}"
        yield CheckResult("unfinished", result, CheckStatus.WARNING, remedy)
    for link in health.broken_links:
        yield CheckResult(
            "dangling", f"{link} leads to nothing", CheckStatus.WARNING, "pull that model again, or remove the link"
        )
    if health.orphaned_blobs:
        count = len(health.orphaned_blobs)
        result = f"{count} files of the hub cache, {format_size(health.orphaned_bytes)}, belong to no model"
        yield CheckResult("unlinked", result, CheckStatus.WARNING, f"remove them, such as {health.orphaned_blobs[0]}")


def _check_kv_store(config: Config, paths: Paths) -> CheckResult:
    """The KV states on disk."""
    from phichat.services.composition import open_kv_store

    kv_store = open_kv_store(config, paths)
    if not kv_store.budget:
        return CheckResult("KV states", f"{paths.kv_store}, {format_size(kv_store.size)}; no more are kept")
    return CheckResult(
        "KV states", f"{paths.kv_store}, {format_size(kv_store.size)} of at most {format_size(kv_store.budget)}"
    )


def _check_hub() -> CheckResult:
    from phichat.models.download.hub_client import HubClient

    try:
        return CheckResult("hub", HubClient().check_connection())
    except PhichatError as error:
        return CheckResult("hub", error.message, CheckStatus.BAD, error.next_step)


def _check_tunings(paths: Paths) -> Iterator[CheckResult]:
    """What `bench --tune` found, here or on another machine with the same home."""
    from phichat.engine.autotune.tuning_cache import TuningCache

    for entry in TuningCache(paths.tuning_cache).load_entries().values():
        match entry:
            case {"cpu": str(cpu), "sizes": [int(min_size), int(max_size)]}:
                models = f"models of {format_size(min_size)} to {format_size(max_size)} on {cpu}"
            case _:
                continue
        match entry:
            case {"threads": int(threads), "prompt_threads": int(prompt)}:
                yield CheckResult("tuned", f"{threads} threads to write and {prompt} to read, {models}")
            case {"spin_count": int(count)}:
                yield CheckResult("tuned", f"{count:,} spins at a barrier, {models}")


def _check_load(config: Config, paths: Paths) -> Iterator[CheckResult]:
    """Load the chosen model, then tell every verdict there is."""
    from phichat.engine.autotune.cpu_buffer_probe import ProbeCache, ProbeOutcome
    from phichat.services.composition import create_local_backend

    try:
        backend = create_local_backend(config, paths)
    except (ModelNotInstalled, UsageError, ConfigError):
        return
    try:
        for _ in backend.load(CancelToken()):
            pass
        placement = "CPU only" if not backend.plan.n_gpu_layers else f"{backend.plan.n_gpu_layers} layers on GPUs"
        yield CheckResult("loads", f"with a context of {backend.n_ctx:,} tokens, {placement}")
    except PhichatError as error:
        yield CheckResult("loads", error.message, CheckStatus.BAD, error.next_step)
    finally:
        backend.close()
    yield from _check_tunings(paths)
    for entry in ProbeCache(paths.cpu_buffer_probes).load_entries().values():
        crashes = entry["verdict"] == ProbeOutcome.CRASHES
        library = Path(entry["library"]).name
        yield CheckResult(
            "CPU buffers",
            f"{library} {entry['verdict']} with the buffer types of {entry['cpu']} for {entry['weights']}",
            CheckStatus.WARNING if crashes else CheckStatus.GOOD,
            _REBUILD_REMEDY if crashes else "",
        )
