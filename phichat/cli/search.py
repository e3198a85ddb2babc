"""`phichat search`: GGUF repositories of the hub, with sizes and whether they fit."""

from __future__ import annotations

import click

from phichat.cli.diagnostics import Diagnostics, ExitCode
from phichat.cli.options import debug_option
from phichat.cli.output import Output
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
    from phichat.engine.hardware import probe_memory
    from phichat.errors import ModelChoiceError
    from phichat.models.choose import choose
    from phichat.models.hub import Hub

    Paths.find()
    diagnostics, output = Diagnostics(), Output()
    hub = Hub(is_offline=offline)
    diagnostics.progress("asking the hub")
    hits = hub.search(" ".join(words), limit)
    listings = hub.listings([hit.repository for hit in hits])
    diagnostics.clear_progress()
    room = probe_memory().available
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
            document |= {"licence": listing.licence, "gated": listing.gated}
            try:
                choice = choose(listing.files, hit.repository)
            except ModelChoiceError:
                pass
            else:
                document |= {
                    "file": choice.parts[0].path,
                    "quantization": choice.quantization,
                    "size": choice.size,
                    "fits": choice.size < room,
                }
        documents.append(document)
    if as_json:
        output.document(documents)
    elif documents:
        output.text(_table(documents))
        diagnostics.notice(f"Get one with `phichat pull {documents[0]['repository']}`.")
    else:
        diagnostics.notice("The hub has no GGUF repository like that; try fewer words.")
    return ExitCode.DONE


def _table(documents: list[dict[str, object]]) -> str:
    from phichat.cli.tables import size, table

    fits = {True: "fits", False: "too large", None: ""}
    rows = []
    for each in documents:
        total, verdict = each["size"], each["fits"]
        assert verdict is None or isinstance(verdict, bool)
        rows.append(
            [
                str(each["repository"]),
                size(total) if isinstance(total, int) else "no single choice",
                str(each["quantization"] or ""),
                fits[verdict],
                "gated" if each["gated"] else "",
                str(each["licence"]),
                f"{each['downloads']:,}",
            ]
        )
    return table(["repository", "size", "quantization", "here", "access", "licence", "downloads"], rows)
