"""`phichat doctor`: diagnose the installation."""

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
from phichat.cli.support.options import create_context, json_option, model_and_engine_options
from phichat.cli.support.output import Output
from phichat.engine.ipc.protocol import EngineInfo
from phichat.errors import ConfigError, ModelNotInstalled, PhichatError, UsageError
from phichat.models.local.locations import ModelSource
from phichat.paths import Paths
from phichat.services.app_context import AppContext
from phichat.units import format_count, format_size

_REBUILD_REMEDY = "rebuild llama-cpp-python with a newer compiler, or as the README says under AMX"


class CheckStatus(StrEnum):
    """Outcome of one check."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line of the report. remedy: "" if there is nothing to do. The field names are the keys of `--json`."""

    subject: str
    found: str
    health: CheckStatus = CheckStatus.GOOD
    remedy: str = ""


@click.command()
@click.option("--online", is_flag=True, help="Also check that Hugging Face is reachable.")
@json_option
@model_and_engine_options
def doctor(online: bool, as_json: bool, **flags: Any) -> int:
    """Diagnose this installation and suggest fixes.

    Checks Python, the engine's library, the devices, memory, disks and models. Makes no network connection without
    --online. Loads the chosen model once to make sure this build works on this CPU.
    """
    results = list(_run_checks(create_context(**flags)))
    if online:
        results.append(_check_hub())
    Output().write_result([asdict(result) for result in results], lambda: _format_results(results), as_json=as_json)
    return ExitCode.ERROR if any(result.health is CheckStatus.BAD for result in results) else ExitCode.DONE


def _format_results(results: list[CheckResult]) -> str:
    marks = {CheckStatus.GOOD: " ", CheckStatus.WARNING: "!", CheckStatus.BAD: "x"}
    return "\n".join(
        f"{marks[one.health]} {one.subject:<14}{one.found}" + (f"\n{'':<16}-> {one.remedy}" if one.remedy else "")
        for one in results
    )


def _failed(subject: str, error: PhichatError, status: CheckStatus = CheckStatus.BAD) -> CheckResult:
    return CheckResult(subject, error.message, status, error.next_step)


def _run_checks(context: AppContext) -> Iterator[CheckResult]:
    yield CheckResult("phichat", __version__)
    yield CheckResult("Python", f"{platform.python_version()} on {platform.platform()} ({sys.executable})")
    file = context.paths.config_file
    yield CheckResult("settings", f"{file}{'' if file.is_file() else ' (none yet)'}")
    try:
        engine = _probe_engine()
    except PhichatError as error:
        yield _failed("engine", error)
        return
    yield CheckResult("library", f"llama-cpp-python {engine.library_version}, {engine.library_file}")
    yield CheckResult("built for", engine.system_info)
    yield from _check_machine(engine)
    yield from _check_disk(context.paths)
    yield _check_kv_store(context)
    yield from _check_models(context)
    yield from _check_load(context)


def _probe_engine() -> EngineInfo:
    from phichat.engine.ipc.connection import EngineTimeouts
    from phichat.engine.ipc.process import EngineProcess

    process = EngineProcess(EngineTimeouts())
    info = process.handshake(CancelToken())
    process.close()
    assert info is not None, "only a cancelled handshake returns None"
    return info


def _check_machine(engine: EngineInfo) -> Iterator[CheckResult]:
    from phichat.engine.planner.hardware import count_usable_cores, describe_unused_gpu, probe_from_engine, probe_memory

    for device in engine.devices:
        free = f"{device.memory_free / 1e9:.1f} of {device.memory_total / 1e9:.1f} GB free"
        yield CheckResult("device", f"{device.name}: {device.description}, {free}")
    if unused := describe_unused_gpu(probe_from_engine(engine)):
        yield CheckResult("GPU", unused, CheckStatus.WARNING, "build llama-cpp-python for it as the README says")
    yield CheckResult("cores", f"{count_usable_cores()} used by the engine")
    memory = probe_memory()
    yield CheckResult("memory", f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free")


def _check_models(context: AppContext) -> Iterator[CheckResult]:
    from phichat.models.local.local_models import LocalModels
    from phichat.models.local.verification import suggest_fix

    try:
        library = LocalModels.from_paths(context.paths)
        for source in ModelSource:
            if models := [model for model in library.models if model.source is source]:
                total = format_size(sum(model.size for model in models))
                names = ", ".join(model.name for model in models)
                yield CheckResult("models", f"{len(models)} from {source}, {total}: {names}")
        for model in library.models:
            if (facts := library.get_summary(model)).damaged:
                yield CheckResult("damaged", f"{model.name}: {facts.problem}", CheckStatus.WARNING, suggest_fix(model))
        selected = library.select_model(context.config.model)
    except (ModelNotInstalled, UsageError, ConfigError) as error:
        yield _failed("chosen", error, CheckStatus.WARNING)
    else:
        yield CheckResult("chosen", f"{selected.model.name}, {selected.model.path}")


def _check_disk(paths: Paths) -> Iterator[CheckResult]:
    """Check the free space where models are stored, and the hub's cache."""
    from phichat.models.download.cache_diagnostics import diagnose_cache

    for subject, folder in (("hub cache", paths.models), ("downloads", paths.downloads)):
        disk = next(path for path in (folder, *folder.parents) if path.is_dir())
        yield CheckResult(subject, f"{folder}, {format_size(shutil.disk_usage(disk).free)} free")
    cache = diagnose_cache(paths.models, paths.downloads)
    for part in cache.partial_downloads:
        total = f" of {format_size(part.total)}" if part.total else ""
        found = f"partial download of {part.repository or 'a URL'}: {format_size(part.downloaded)}{total}"
        remedy = f"resume with `phichat pull {part.repository or 'URL'}`, or delete {part.path}"
        yield CheckResult("unfinished", f"{found}, {part.path.name}", CheckStatus.WARNING, remedy)
    for link in cache.broken_links:
        remedy = "pull that model again, or delete the link"
        yield CheckResult("dangling", f"{link} is a broken link", CheckStatus.WARNING, remedy)
    if orphans := cache.orphaned_blobs:
        found = f"{format_count(len(orphans), 'orphaned file')} ({format_size(cache.orphaned_bytes)}) in the hub cache"
        yield CheckResult("unlinked", found, CheckStatus.WARNING, f"delete them, for example {orphans[0]}")


def _check_kv_store(context: AppContext) -> CheckResult:
    from phichat.engine.kv_store import KvStore

    store = KvStore(context.paths.kv_store, context.config.state_budget)
    limit = f" of at most {format_size(store.budget)}" if store.budget else "; saving is disabled"
    return CheckResult("KV states", f"{context.paths.kv_store}, {format_size(store.size)}{limit}")


def _check_hub() -> CheckResult:
    from phichat.models.download.hub_client import HubClient

    try:
        return CheckResult("hub", HubClient().check_connection())
    except PhichatError as error:
        return _failed("hub", error)


def _check_tunings(paths: Paths) -> Iterator[CheckResult]:
    """Report the results of `bench --tune`, also those of other machines with the same home folder."""
    from phichat.engine.autotune.tuning_cache import TuningCache

    for entry in TuningCache(paths.tuning_cache).load_entries().values():
        match entry:
            case {"threads": int(threads), "prompt_threads": int(prompt_threads)}:
                found = f"{threads} threads for generation and {prompt_threads} for prompts"
            case {"spin_count": int(count)}:
                found = f"{count:,} spins at a barrier"
            case _:
                continue
        match entry:
            case {"cpu": str(cpu), "sizes": [int(min_size), int(max_size)]}:
                models = f"models of {format_size(min_size)} to {format_size(max_size)} on {cpu}"
                yield CheckResult("tuned", f"{found}, {models}")


def _check_load(context: AppContext) -> Iterator[CheckResult]:
    """Load the chosen model, then report all probe results."""
    from phichat.engine.autotune.cpu_buffer_probe import ProbeCache, ProbeOutcome
    from phichat.services.backend_factory import BackendFactory

    try:
        backend = BackendFactory(context).create_local_backend()
    except (ModelNotInstalled, UsageError, ConfigError):
        return  # reported by _check_models
    try:
        for _ in backend.load(CancelToken()):
            pass
        gpu_layers = backend.engine.plan.n_gpu_layers
        placement = f"{gpu_layers} layers on GPUs" if gpu_layers else "CPU only"
        yield CheckResult("loads", f"with a context of {backend.n_ctx:,} tokens, {placement}")
    except PhichatError as error:
        yield _failed("loads", error)
    finally:
        backend.close()
    yield from _check_tunings(context.paths)
    for entry in ProbeCache(context.paths.cpu_buffer_probes).load_entries().values():
        buffers = f"the buffer types of {entry['cpu']} for {entry['weights']}"
        found = f"{Path(entry['library']).name} {entry['verdict']} with {buffers}"
        crashed = entry["verdict"] == ProbeOutcome.CRASHES
        status, remedy = (CheckStatus.WARNING, _REBUILD_REMEDY) if crashed else (CheckStatus.GOOD, "")
        yield CheckResult("CPU buffers", found, status, remedy)
