"""`phichat search`: GGUF repositories of the hub."""

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.options import create_default_context, debug_option, json_option
from phichat.cli.support.output import Output
from phichat.cli.support.tables import format_table
from phichat.services.model_catalog import CatalogEntry, ModelCatalog
from phichat.units import format_size


@click.command()
@click.argument("words", nargs=-1, required=True)
@click.option("-n", "--limit", type=click.IntRange(1, 50), default=12, show_default=True, help="Maximum results.")
@click.option("--offline", is_flag=True, hidden=True)
@json_option
@debug_option
def search(words: tuple[str, ...], limit: int, offline: bool, as_json: bool) -> int:
    """Search Hugging Face for GGUF repositories, most downloaded first.

    The size is that of the file that `phichat pull` would take. Whether it fits is estimated from the size; pull and
    fit read the header.
    """

    def to_json(entry: CatalogEntry) -> dict[str, object]:
        return {
            "repository": entry.name,
            "file": entry.file or None,
            "quantization": entry.quantization if entry.file else None,
            "size": entry.size or None,
            "fits": entry.fits,
            "licence": entry.licence,
            "gated": entry.is_gated,
            "downloads": entry.downloads,
            "likes": entry.likes,
        }

    def to_row(entry: CatalogEntry) -> tuple[str, ...]:
        size = format_size(entry.size) if entry.size else "several files"
        fits = {True: "fits", False: "does not fit", None: ""}[entry.fits]
        access = "gated" if entry.is_gated else ""
        return entry.name, size, entry.quantization, fits, access, entry.licence, f"{entry.downloads:,}"

    diagnostics, output = Diagnostics(), Output()
    diagnostics.show_progress("searching the hub")
    entries = ModelCatalog(create_default_context()).search_hub(" ".join(words), limit, is_offline=offline)
    diagnostics.clear_progress()
    header = ["repository", "size", "quantization", "here", "access", "licence", "downloads"]
    if as_json:
        output.write_json([to_json(entry) for entry in entries])
    elif entries:
        output.write_text(format_table(header, [to_row(entry) for entry in entries]))
        diagnostics.print_notice(f"Download one with `phichat pull {entries[0].name}`.")
    else:
        diagnostics.print_notice("No matching GGUF repositories. Try fewer words.")
    return ExitCode.DONE
