"""`phichat logs rm`: conversations that shall be gone."""

from __future__ import annotations

import click

from phichat.cli.confirm import confirm
from phichat.cli.diagnostics import Diagnostics
from phichat.paths import Paths


@click.command("rm")
@click.argument("cids", metavar="CID...", nargs=-1, required=True)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def logs_rm(cids: tuple[str, ...], yes: bool) -> None:
    """Remove conversations so that nothing of them can be read in the file any more."""
    from phichat.engine.states import StateFolder
    from phichat.wiring import store

    paths = Paths.find()
    kept = store(paths)
    try:
        ids = list(dict.fromkeys(kept.find(cid) for cid in cids))
        confirm(f"This removes {', '.join(ids)} for good", "Remove?", yes=yes)
        tell = Diagnostics()
        tell.progress("removing, from the full-text index too")
        erased = kept.remove(ids)
        for id_ in ids:
            StateFolder(paths.states).forget(id_)
        tell.clear_progress()
        if not erased:
            tell.notice(
                "Another program has the transcripts open; what was removed can be read in the file until it ends."
            )
    finally:
        kept.close()
