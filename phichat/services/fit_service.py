"""Estimates of a model's memory and speed on this machine, before it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from phichat.cancel import CancelToken
from phichat.errors import ModelNotInstalled
from phichat.models.local.local_models import LocalModels
from phichat.models.local.usage_log import GenerationSpeed
from phichat.services.app_context import AppContext
from phichat.services.backend_factory import suggest_models

if TYPE_CHECKING:
    from phichat.engine.planner.fit_estimate import SpeedEstimate
    from phichat.engine.planner.hardware import Hardware
    from phichat.engine.planner.offload_plan import OffloadPlan
    from phichat.gguf.header import GgufHeader

RemoteHeaderReader = Callable[[str], "GgufHeader"]
"""Reads the header of a model that is not installed, by its spec. Raises PhichatError kinds."""


@dataclass(frozen=True, slots=True)
class FitReport:
    """Fit of a model on this machine. layer_count: repeating layers. suggestions: names and sizes of smaller models."""

    name: str
    layer_count: int
    plan: OffloadPlan
    machine: Hardware
    speed: SpeedEstimate
    suggestions: Sequence[tuple[str, int]]


def estimate_fit(
    context: AppContext, cancel: CancelToken, read_remote_header: RemoteHeaderReader | None = None
) -> FitReport | None:
    """Return the estimate for the model and the engine options of the context, None when cancelled.

    read_remote_header: for a model that is not installed. Raises ModelNotInstalled, ModelFileError, UsageError,
    ConfigError and EngineError.
    """
    from phichat.gguf.header import check_usable, read_model_header

    library, requested = LocalModels.from_paths(context.paths), context.config.model
    try:
        model = library.select_model(requested).model
        name, header, speed = model.name, read_model_header(model.path), library.usage_log.last_speed(model.path)
        check_usable(header, model.path)
    except ModelNotInstalled:
        if read_remote_header is None or requested is None:
            raise
        name, header, speed = requested, read_remote_header(requested), None
    return estimate_header_fit(context, name, header, cancel, speed)


def estimate_header_fit(
    context: AppContext, name: str, header: GgufHeader, cancel: CancelToken, speed: GenerationSpeed | None = None
) -> FitReport | None:
    """Return the estimate for a model with this header, None when cancelled. speed: measured before.

    Raises UsageError, ConfigError and EngineError.
    """
    from phichat.engine.autotune.cpu_buffer_probe import ProbeCache, build_probe_key
    from phichat.engine.planner.fit_estimate import SpeedEstimate, estimate_speed, plan_placement, probe_machine

    machine = probe_machine(cancel)
    if machine is None:
        return None
    probed = ProbeCache(context.paths.cpu_buffer_probes).lookup(build_probe_key(machine.library_file, header))
    plan = plan_placement(header, machine, context.config.engine, probed)
    if speed and speed.n_gpu_layers == plan.n_gpu_layers:
        source = f"measured by `phichat {speed.measured_by}` on this machine"
        estimate = SpeedEstimate(speed.tokens_per_second, source)
    else:
        estimate = estimate_speed(header, machine, plan)
    suggestions = suggest_models(LocalModels.from_paths(context.paths))
    return FitReport(name, header.block_count, plan, machine, estimate, suggestions)
