"""`phichat search`: GGUF repositories of the hub, with sizes and whether they fit."""

from __future__ import annotations

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.options import debug_option
from phichat.cli.support.output import Output
from phichat.paths import Paths


@click.command()
@click.argument("words", nargs=-1, required=True)
@click.option("-n", "--limit", type=click.IntRange(1, 50), default=12, show_default=True, help="Hits at most.")
@click.option("--offline", is_flag=True, help="Connect nowhere, which finds nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@debug_option
def search(words: tuple[str, ...], limit: int, offline: bool, as_json: bool) -> int:
    """Look on the hub for GGUF repositories that WORDS fit, the most downloaded first.

    The size is that of the file that `phichat pull` would take. Whether it fits is judged by size
    alone; pull and fit look into its header.
    """
    from phichat.engine.planner.hardware import probe_memory
    from phichat.errors import AmbiguousModelError
    from phichat.models.download.file_selection import select_files
    from phichat.models.download.hub_client import HubClient

    Paths.from_environment()
    diagnostics, output = Diagnostics(), Output()
    hub = HubClient(is_offline=offline)
    diagnostics.show_progress("asking the hub")
    hits = hub.search_models(" ".join(words), limit)
    listings = hub.fetch_listings([hit.repository for hit in hits])
    diagnostics.clear_progress()
    free_memory = probe_memory().available
    documents = []
    for hit in hits:
        document: dict[str, object] = {
            "repository": hit.repository,
            "file": None,
            "quantization": None,
            "size": None,
            "fits": None,
            "licence": "",
            "gated": None,
            "downloads": hit.downloads,
            "likes": hit.likes,
        }
        if listing := listings.get(hit.repository):
            document |= {"licence": listing.licence, "gated": listing.is_gated}
            try:
                choice = select_files(listing.files, hit.repository)
            except AmbiguousModelError:
                pass
            else:
                document |= {
                    "file": choice.parts[0].path,
                    "quantization": choice.quantization,
                    "size": choice.size,
                    "fits": choice.size < free_memory,
                }
        documents.append(document)
    if as_json:
        output.write_json(documents)
    elif documents:
        output.write_text(_format_hits(documents))
        diagnostics.print_notice(f"Get one with `phichat pull {documents[0]['repository']}`.")
    else:
        diagnostics.print_notice("The hub has no GGUF repository like that; try fewer words.")
    return ExitCode.DONE


def _format_hits(documents: list[dict[str, object]]) -> str:
    from phichat.cli.support.tables import format_size, format_table

    fits = {True: "fits", False: "too large", None: ""}
    rows = []
    for each in documents:
        total, fits_memory = each["size"], each["fits"]
        assert fits_memory is None or isinstance(fits_memory, bool)
        rows.append(
            [
                str(each["repository"]),
                format_size(total) if isinstance(total, int) else "no single choice",
                str(each["quantization"] or ""),
                fits[fits_memory],
                "gated" if each["gated"] else "",
                str(each["licence"]),
                f"{each['downloads']:,}",
            ]
        )
    return format_table(["repository", "size", "quantization", "here", "access", "licence", "downloads"], rows)
