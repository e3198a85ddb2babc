"""`phichat fit`: whether a model fits this machine, before it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from phichat.cli.diagnostics import Diagnostics, ExitCode
from phichat.cli.interrupt import ctrl_c
from phichat.cli.options import configure, engine_options
from phichat.cli.output import Output
from phichat.paths import Paths

if TYPE_CHECKING:
    from phichat.gguf_header import GgufHeader
    from phichat.wiring import RemoteHeader


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@engine_options
def fit(model: str, as_json: bool, **flags: Any) -> int:
    """Tell what MODEL would take of this machine's memory, where its parts would go, and how fast it would be.

    Reads the header alone. Exits 4, naming the nearest choice that fits, when it does not.
    """
    from phichat.engine.hardware import DeviceKind
    from phichat.engine.offload import require_fit
    from phichat.wiring import fit_of

    paths = Paths.find()
    with ctrl_c() as cancel:
        fitted = fit_of(configure(paths, model=model, **flags), paths, cancel, _remote(paths))
    if fitted is None:
        return ExitCode.INTERRUPTED
    where, machine = fitted.plan, fitted.machine.hardware
    document: dict[str, Any] = {
        "model": fitted.name,
        "fits": where.fits,
        "memory": {
            "weights": where.weights,
            "kv_cache": where.kv_cache,
            "compute": where.compute,
            "total": where.total,
        },
        "available": {
            "ram": machine.ram_available,
            "vram": [device.memory_free for device in machine.devices if device.kind is not DeviceKind.CPU],
        },
        "n_ctx": where.n_ctx,
        "max_ctx": where.max_ctx,
        "cache_type_k": where.type_k,
        "cache_type_v": where.type_v,
        "n_gpu_layers": where.n_gpu_layers,
        "layers": fitted.layers,
        "tokens_per_second": fitted.speed.tokens_per_second,
        "tokens_per_second_from": fitted.speed.how,
        "placements": [
            {
                "device": placement.device,
                "weights": placement.weights,
                "kv_cache": placement.kv_cache,
                "compute": placement.compute,
                "total": placement.total,
            }
            for placement in where.placements
        ],
        "notices": [*where.notices],
    }
    if as_json:
        Output().document(document)
    else:
        Output().text(_text(document))
    for notice in where.notices:
        Diagnostics().notice(notice)
    require_fit(where, fitted.name, fitted.smaller)
    return ExitCode.DONE


def _remote(paths: Paths) -> RemoteHeader:
    """Reads the header of what is not installed from the hub, which is not asked before that."""

    def read(spec: str) -> GgufHeader:
        from phichat.models.hub import Hub
        from phichat.models.registry import read_registry
        from phichat.models.remote_header import read_remote_header

        return read_remote_header(spec, read_registry(paths.own_models), Hub(), paths)

    return read


def _text(document: dict[str, Any]) -> str:
    from phichat.cli.tables import size, table

    columns = ("weights", "kv_cache", "compute", "total")
    rows = [[each["device"], *(size(each[column]) for column in columns)] for each in document["placements"]]
    if len(rows) > 1:
        rows.append(["all", *(size(document["memory"][column]) for column in columns)])
    rate = document["tokens_per_second"]
    available = document["available"]
    lines = [
        f"{document['model']}: {'fits' if document['fits'] else 'does not fit'}",
        table(["where", "weights", "KV cache", "compute", "total"], rows),
        f"free      {size(available['ram'])} of RAM"
        + "".join(f", {size(card)} on a GPU" for card in available["vram"]),
        f"context   {document['n_ctx']:,} tokens; the largest that fits is {document['max_ctx']:,}",
        f"on GPUs   {document['n_gpu_layers']} of {document['layers'] + 1} layers",
        f"speed     {f'{rate:.1f} tokens/s, ' if rate else ''}{document['tokens_per_second_from']}",
    ]
    return "\n".join(lines)
