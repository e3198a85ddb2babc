"""`phichat show`: details of one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from phichat.cancel import CancelToken
from phichat.cli.support.diagnostics import ExitCode
from phichat.cli.support.options import create_context, debug_option, json_option
from phichat.cli.support.output import Output
from phichat.cli.support.tables import format_pairs
from phichat.services.model_catalog import ModelCatalog
from phichat.units import format_size

if TYPE_CHECKING:
    from phichat.services.fit_service import FitReport


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
