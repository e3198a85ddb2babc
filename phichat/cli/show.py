"""`phichat show`: everything about one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from phichat.cli.support.diagnostics import ExitCode
from phichat.cli.support.options import create_context, debug_option
from phichat.cli.support.output import Output

if TYPE_CHECKING:
    from phichat.services.fit_service import FitReport


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@debug_option
def show(model: str, as_json: bool) -> int:
    """Show what MODEL is: its file, what its header says, its licence, and whether it fits this machine.

    Where its parts would go says `phichat fit MODEL`.
    """
    from phichat.cancel import CancelToken
    from phichat.cli.support.tables import format_pairs, format_size
    from phichat.gguf.header import read_model_header
    from phichat.models.local.local_models import LocalModels
    from phichat.services.fit_service import FitService

    context = create_context()
    library = LocalModels.from_paths(context.paths)
    model_file = library.resolve_model(model)
    header = read_model_header(model_file.path)
    problem = library.get_summary(model_file).problem
    fit_service = FitService(context.with_config(model=str(model_file.path)))
    report = None if problem else fit_service.estimate(CancelToken())
    verified_hash, spec = library.hash_cache.get(model_file.path), model_file.spec
    document: dict[str, Any] = {
        "name": model_file.name,
        "also_called": [*model_file.aliases],
        "title": (spec.title if spec else "") or header.name,
        "summary": spec.summary if spec else "",
        "source": model_file.source,
        "repository": model_file.repository,
        "path": str(model_file.path),
        "parts": len(model_file.parts),
        "size": model_file.size,
        "sha256": verified_hash.sha256 if verified_hash else model_file.parts[0].sha256 or None,
        "verified_at": verified_hash.verified_at if verified_hash else None,
        "last_used_at": library.usage_log.last_used_at(model_file.path),
        "problem": problem or None,
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
        "licence": (spec.licence if spec else "") or header.get_str("general.license"),
        "sampling": dict(spec.sampling) if spec else {},
        "chat_template": header.chat_template or None,
    }
    if as_json:
        Output().write_json(document)
        return ExitCode.DONE
    parts = f" in {len(model_file.parts)} parts" if len(model_file.parts) > 1 else ""
    rows = [
        ("name", model_file.name),
        ("also", ", ".join(model_file.aliases)),
        ("title", document["title"]),
        ("good for", document["summary"]),
        ("source", f"{model_file.source} {model_file.repository}".strip()),
        ("path", document["path"]),
        ("size", format_size(model_file.size) + parts),
        ("sha256", document["sha256"] or ""),
        ("verified", document["verified_at"] or "never"),
        ("last used", document["last_used_at"] or "never"),
        ("fits", problem or _format_fit(report)),
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
    from phichat.cli.support.tables import format_size

    if report is None:
        return ""
    plan, rate = report.plan, report.speed.tokens_per_second
    summary = (
        f"{'yes' if plan.fits else 'no'}, it takes {format_size(plan.total)} with {plan.n_ctx:,} tokens of context"
    )
    return summary + (f", about {rate:.0f} tokens/s" if rate else "")
