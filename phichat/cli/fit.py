"""`phichat fit`: whether a model fits this machine, before it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.interrupt import cancel_on_sigint
from phichat.cli.support.options import create_context, engine_options
from phichat.cli.support.output import Output

if TYPE_CHECKING:
    from phichat.gguf.header import GgufHeader
    from phichat.paths import Paths
    from phichat.services.fit_service import RemoteHeaderReader


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@engine_options
def fit(model: str, as_json: bool, **flags: Any) -> int:
    """Tell what MODEL would take of this machine's memory, where its parts would go, and how fast it would be.

    Reads the header alone. Exits 4, naming the nearest choice that fits, when it does not.
    """
    from phichat.engine.planner.hardware import DeviceKind
    from phichat.engine.planner.offload_plan import require_fit
    from phichat.services.fit_service import FitService

    context = create_context(model=model, **flags)
    with cancel_on_sigint() as cancel:
        report = FitService(context).estimate(cancel, _remote_header_reader(context.paths))
    if report is None:
        return ExitCode.INTERRUPTED
    plan, machine = report.plan, report.machine.hardware
    document: dict[str, Any] = {
        "model": report.name,
        "fits": plan.fits,
        "memory": {
            "weights": plan.weights,
            "kv_cache": plan.kv_cache,
            "compute": plan.compute,
            "total": plan.total,
        },
        "available": {
            "ram": machine.ram_available,
            "vram": [device.memory_free for device in machine.devices if device.kind is not DeviceKind.CPU],
        },
        "n_ctx": plan.n_ctx,
        "max_ctx": plan.max_ctx,
        "cache_type_k": plan.type_k,
        "cache_type_v": plan.type_v,
        "n_gpu_layers": plan.n_gpu_layers,
        "layers": report.layer_count,
        "tokens_per_second": report.speed.tokens_per_second,
        "tokens_per_second_from": report.speed.explanation,
        "placements": [
            {
                "device": placement.device,
                "weights": placement.weights,
                "kv_cache": placement.kv_cache,
                "compute": placement.compute,
                "total": placement.total,
            }
            for placement in plan.placements
        ],
        "notices": [*plan.notices],
    }
    if as_json:
        Output().write_json(document)
    else:
        Output().write_text(_format_report(document))
    for notice in plan.notices:
        Diagnostics().print_notice(notice)
    require_fit(plan, report.name, report.suggestions)
    return ExitCode.DONE


def _remote_header_reader(paths: Paths) -> RemoteHeaderReader:
    """Reads the header of what is not installed from the hub, which is not asked before that."""

    def read_header(spec: str) -> GgufHeader:
        from phichat.models.download.hub_client import HubClient
        from phichat.models.download.remote_header import read_remote_header
        from phichat.models.registry import read_registry

        return read_remote_header(spec, read_registry(paths.user_registry), HubClient(), paths)

    return read_header


def _format_report(document: dict[str, Any]) -> str:
    from phichat.cli.support.tables import format_size, format_table

    columns = ("weights", "kv_cache", "compute", "total")
    rows = [[each["device"], *(format_size(each[column]) for column in columns)] for each in document["placements"]]
    if len(rows) > 1:
        rows.append(["all", *(format_size(document["memory"][column]) for column in columns)])
    rate = document["tokens_per_second"]
    available = document["available"]
    lines = [
        f"{document['model']}: {'fits' if document['fits'] else 'does not fit'}",
        format_table(["where", "weights", "KV cache", "compute", "total"], rows),
        f"free      {format_size(available['ram'])} of RAM"
        + "".join(f", {format_size(free_bytes)} on a GPU" for free_bytes in available["vram"]),
        f"context   {document['n_ctx']:,} tokens; the largest that fits is {document['max_ctx']:,}",
        f"on GPUs   {document['n_gpu_layers']} of {document['layers'] + 1} layers",
        f"speed     {f'{rate:.1f} tokens/s, ' if rate else ''}{document['tokens_per_second_from']}",
    ]
    return "\n".join(lines)
