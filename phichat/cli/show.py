"""`phichat show`: everything about one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from phichat.cli.diagnostics import ExitCode
from phichat.cli.options import configure, debug_option
from phichat.cli.output import Output
from phichat.paths import Paths

if TYPE_CHECKING:
    from phichat.wiring import Fitted


@click.command()
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@debug_option
def show(model: str, as_json: bool) -> int:
    """Show what MODEL is: its file, what its header says, its licence, and whether it fits this machine.

    Where its parts would go says `phichat fit MODEL`.
    """
    from phichat.cli.tables import pairs, size
    from phichat.engine.cancel import Cancel
    from phichat.gguf_header import read_model
    from phichat.models.library import Library
    from phichat.wiring import fit_of

    paths = Paths.find()
    library = Library.open(paths)
    found = library.resolve(model)
    header = read_model(found.path)
    problem = library.facts(found).problem
    fitted = None if problem else fit_of(configure(paths, model=str(found.path)), paths, Cancel())
    proof, spec = library.proofs.known(found.path), found.spec
    document: dict[str, Any] = {
        "name": found.name,
        "also_called": [*found.also_called],
        "title": (spec.title if spec else "") or header.name,
        "summary": spec.summary if spec else "",
        "source": found.source,
        "repository": found.repository,
        "path": str(found.path),
        "parts": len(found.parts),
        "size": found.size,
        "sha256": proof.sha256 if proof else found.parts[0].sha256 or None,
        "verified_at": proof.verified_at if proof else None,
        "last_used_at": library.used.at(found.path),
        "problem": problem or None,
        "fits": fitted.plan.fits if fitted else None,
        "memory": fitted.plan.total if fitted else None,
        "max_ctx": fitted.plan.max_ctx if fitted else None,
        "tokens_per_second": fitted.speed.tokens_per_second if fitted else None,
        "architecture": header.architecture,
        "quantization": header.quantization,
        "context_length": header.context_length,
        "layers": header.block_count,
        "embedding_length": header.embedding_length,
        "vocabulary": header.vocab_size,
        "licence": (spec.licence if spec else "") or header.text("general.license"),
        "sampling": dict(spec.sampling) if spec else {},
        "chat_template": header.chat_template or None,
    }
    if as_json:
        Output().document(document)
        return ExitCode.DONE
    parts = f" in {len(found.parts)} parts" if len(found.parts) > 1 else ""
    rows = [
        ("name", found.name),
        ("also", ", ".join(found.also_called)),
        ("title", document["title"]),
        ("good for", document["summary"]),
        ("source", f"{found.source} {found.repository}".strip()),
        ("path", document["path"]),
        ("size", size(found.size) + parts),
        ("sha256", document["sha256"] or ""),
        ("verified", document["verified_at"] or "never"),
        ("last used", document["last_used_at"] or "never"),
        ("fits", problem or _fit(fitted)),
        ("architecture", f"{header.architecture}, {header.block_count} layers, {header.quantization}"),
        ("context", f"{header.context_length:,} tokens"),
        ("vocabulary", f"{header.vocab_size:,} tokens"),
        ("template", f"{len(header.chat_template):,} characters" if header.chat_template else "none in the file"),
        ("sampling", ", ".join(f"{name} {value}" for name, value in document["sampling"].items())),
        ("licence", document["licence"]),
    ]
    Output().text(pairs(rows))
    return ExitCode.DONE


def _fit(fitted: Fitted | None) -> str:
    from phichat.cli.tables import size

    if fitted is None:
        return ""
    where, rate = fitted.plan, fitted.speed.tokens_per_second
    answer = f"{'yes' if where.fits else 'no'}, it takes {size(where.total)} with {where.n_ctx:,} tokens of context"
    return answer + (f", about {rate:.0f} tokens/s" if rate else "")
