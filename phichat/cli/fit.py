"""`phichat fit`: memory and speed of a model on this machine, before it is loaded."""

from typing import Any

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.interrupt import cancel_on_sigint
from phichat.cli.support.options import create_context, engine_options, json_option
from phichat.cli.support.output import Output
from phichat.cli.support.tables import format_table
from phichat.services.model_catalog import ModelCatalog
from phichat.units import format_size

_MEMORY_PARTS = ("weights", "kv_cache", "compute", "total")


@click.command()
@click.argument("model")
@json_option
@engine_options
def fit(model: str, as_json: bool, **flags: Any) -> int:
    """Estimate how much memory MODEL needs, where its layers go, and how fast it runs.

    Reads only the header. If it does not fit, exits with 4 and names the closest choice that does.
    """
    from phichat.engine.planner.hardware import DeviceKind
    from phichat.engine.planner.offload_plan import require_fit
    from phichat.services.fit_service import estimate_fit

    context = create_context(model=model, **flags)
    with cancel_on_sigint() as cancel:
        report = estimate_fit(context, cancel, ModelCatalog(context).read_remote_header)
    if report is None:
        return ExitCode.INTERRUPTED
    plan, machine = report.plan, report.machine
    document: dict[str, Any] = {
        "model": report.name,
        "fits": plan.fits,
        "memory": {part: getattr(plan.all_devices, part) for part in _MEMORY_PARTS},
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
            {"device": placement.device, **{part: getattr(placement, part) for part in _MEMORY_PARTS}}
            for placement in plan.placements
        ],
        "notices": [*plan.notices],
    }
    Output().write_result(document, lambda: _format_report(document), as_json=as_json)
    Diagnostics().print_notice(*plan.notices)
    require_fit(plan, report.name, report.suggestions)
    return ExitCode.DONE


def _format_report(document: dict[str, Any]) -> str:
    places = [*document["placements"]]
    if len(places) > 1:
        places.append({"device": "all", **document["memory"]})
    rows = [[each["device"], *(format_size(each[part]) for part in _MEMORY_PARTS)] for each in places]
    rate, available = document["tokens_per_second"], document["available"]
    gpus = "".join(f", {format_size(free_bytes)} on a GPU" for free_bytes in available["vram"])
    lines = [
        f"{document['model']}: {'fits' if document['fits'] else 'does not fit'}",
        format_table(["where", "weights", "KV cache", "compute", "total"], rows),
        f"free      {format_size(available['ram'])} of RAM{gpus}",
        f"context   {document['n_ctx']:,} tokens; the maximum is {document['max_ctx']:,}",
        f"on GPUs   {document['n_gpu_layers']} of {document['layers'] + 1} layers",
        f"speed     {f'{rate:.1f} tokens/s, ' if rate else ''}{document['tokens_per_second_from']}",
    ]
    return "\n".join(lines)
