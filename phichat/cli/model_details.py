"""`phichat show` and `phichat fit`: one model, its memory and its speed on this machine, before it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from phichat.cancel import CancelToken
from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.interrupt import cancel_on_sigint
from phichat.cli.support.options import create_context, debug_option, engine_options, json_option
from phichat.cli.support.output import Output
from phichat.cli.support.tables import format_pairs, format_table
from phichat.services.model_catalog import ModelCatalog
from phichat.units import format_size

if TYPE_CHECKING:
    from phichat.services.fit_service import FitReport

_MEMORY_PARTS = ("weights", "kv_cache", "compute", "total")


@click.command()
@click.argument("model")
@json_option
@debug_option
def show(model: str, as_json: bool) -> int:
    """Show details of MODEL: file, header, licence, and whether it fits.

    `phichat fit MODEL` shows where its parts would go.
    """
    from phichat.gguf.header import read_model_header
    from phichat.models.local.local_models import LocalModels
    from phichat.services.fit_service import estimate_fit

    context = create_context()
    models = LocalModels.from_paths(context.paths)
    file = models.resolve_model(model)
    header = read_model_header(file.path)
    entry, spec = ModelCatalog(context).installed_entry(file, models), file.spec
    report = None if entry.problem else estimate_fit(context.with_config(model=entry.path), CancelToken())
    document: dict[str, Any] = {
        "name": file.name,
        "also_called": [*file.aliases],
        "title": (spec.title if spec else "") or header.name,
        "summary": spec.summary if spec else "",
        "source": file.source,
        "repository": file.repository,
        "path": entry.path,
        "parts": len(file.parts),
        "size": entry.size,
        "sha256": entry.sha256,
        "verified_at": entry.verified_at,
        "last_used_at": entry.last_used_at,
        "problem": entry.problem or None,
        "fits": report.plan.fits if report else None,
        "memory": report.plan.total if report else None,
        "max_ctx": report.plan.max_ctx if report else None,
        "tokens_per_second": report.speed.tokens_per_second if report else None,
        "architecture": header.architecture,
        "quantization": header.quantization,
        "context_length": header.context_length,
        "layers": header.block_count,
        "embedding_length": header.embedding_length,
        "vocabulary": header.vocab_size,
        "licence": entry.licence or header.get_str("general.license"),
        "sampling": dict(spec.sampling) if spec else {},
        "chat_template": header.chat_template or None,
    }
    if as_json:
        Output().write_json(document)
        return ExitCode.DONE
    parts = f" in {len(file.parts)} parts" if len(file.parts) > 1 else ""
    rows = [
        ("name", file.name),
        ("also", ", ".join(file.aliases)),
        ("title", document["title"]),
        ("good for", document["summary"]),
        ("source", f"{file.source} {file.repository}".strip()),
        ("path", entry.path),
        ("size", format_size(entry.size) + parts),
        ("sha256", entry.sha256 or ""),
        ("verified", entry.verified_at or "never"),
        ("last used", entry.last_used_at or "never"),
        ("fits", entry.problem or _format_fit(report)),
        ("architecture", f"{header.architecture}, {header.block_count} layers, {header.quantization}"),
        ("context", f"{header.context_length:,} tokens"),
        ("vocabulary", f"{header.vocab_size:,} tokens"),
        ("template", f"{len(header.chat_template):,} characters" if header.chat_template else "none in the file"),
        ("sampling", ", ".join(f"{name} {value}" for name, value in document["sampling"].items())),
        ("licence", document["licence"]),
    ]
    Output().write_text(format_pairs(rows))
    return ExitCode.DONE


def _format_fit(report: FitReport | None) -> str:
    if report is None:
        return ""
    plan, rate = report.plan, report.speed.tokens_per_second
    answer = f"{'yes' if plan.fits else 'no'}, needs {format_size(plan.total)} with {plan.n_ctx:,} tokens of context"
    return answer + (f", about {rate:.0f} tokens/s" if rate else "")


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
