"""`phichat list`: the installed models, or those of an endpoint."""

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.interrupt import cancel_on_sigint
from phichat.cli.support.options import create_context, create_default_context, debug_option, json_option
from phichat.cli.support.output import Output
from phichat.cli.support.tables import format_table
from phichat.services.model_catalog import CatalogEntry, ModelCatalog
from phichat.units import format_size

_JSON_FIELDS = (
    *("name", "path", "size", "quantization", "architecture", "source"),
    *("sha256", "verified_at", "last_used_at", "context_length", "fits"),
)


@click.command()
@json_option
@click.option("--endpoint", metavar="NAME", help="List the models of [endpoints.NAME] in config.toml instead.")
@debug_option
def list(as_json: bool, endpoint: str | None) -> int:
    """List installed models, whichever program downloaded them."""
    if endpoint is not None:
        return _list_endpoint_models(endpoint, as_json=as_json)

    def to_json(entry: CatalogEntry) -> dict[str, object]:
        return {field: getattr(entry, field) for field in _JSON_FIELDS} | {
            "tokens_per_second": entry.speed.tokens_per_second if entry.speed else None,
            "also_called": [*entry.aliases],
            "problem": entry.problem or None,
            "damaged": entry.is_damaged,
        }

    def to_row(entry: CatalogEntry) -> tuple[str, ...]:
        state = "fits" if entry.fits else "does not fit now"
        state = "damaged" if entry.is_damaged else "not a chat model" if entry.problem else state
        dates = ((timestamp or "-")[:10] for timestamp in (entry.last_used_at, entry.verified_at))
        return entry.name, format_size(entry.size), entry.quantization or "?", entry.source, *dates, state

    entries = [entry for entry in ModelCatalog(create_default_context()).entries() if entry.installed]
    header = ["name", "size", "quantization", "source", "last used", "verified", "state"]
    if as_json:
        Output().write_json([to_json(entry) for entry in entries])
    elif entries:
        Output().write_text(format_table(header, [to_row(entry) for entry in entries]))
    else:
        Diagnostics().print_notice("No model is installed. Download one with `phichat pull phi-4-mini`.")
    return ExitCode.DONE


def _list_endpoint_models(endpoint: str, *, as_json: bool) -> int:
    from phichat.services.backend_factory import BackendFactory

    with cancel_on_sigint() as cancel:
        models = BackendFactory(create_context()).list_endpoint_models(endpoint, cancel)
        if cancel.is_set():
            return ExitCode.INTERRUPTED
    facts = [(f"{endpoint}/{model.id}", model.id, model.n_ctx or None, model.owned_by or None) for model in models]
    if as_json:
        keys = ("name", "id", "context_length", "owned_by")
        Output().write_json([dict(zip(keys, values, strict=True)) for values in facts])
    elif facts:
        rows = [(name, f"{n_ctx:,}" if n_ctx else "?", owner or "?") for name, _, n_ctx, owner in facts]
        Output().write_text(format_table(["name", "context", "owned by"], rows))
    else:
        Diagnostics().print_notice(f"{endpoint} has no models.")
    return ExitCode.DONE
