"""`phichat logs rm`: conversations that shall be gone."""

from __future__ import annotations

import click

from phichat.cli.support.confirmation import confirm_action
from phichat.cli.support.diagnostics import Diagnostics
from phichat.paths import Paths


@click.command("rm")
@click.argument("cids", metavar="CID...", nargs=-1, required=True)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def logs_rm(cids: tuple[str, ...], yes: bool) -> None:
    """Remove conversations so that nothing of them can be read in the file any more."""
    from phichat.engine.kv_store import KvStore
    from phichat.services.composition import open_store

    paths = Paths.from_environment()
    transcripts = open_store(paths)
    try:
        ids = list(dict.fromkeys(transcripts.find_id(cid) for cid in cids))
        confirm_action(f"This removes {', '.join(ids)} for good", "Remove?", assume_yes=yes)
        diagnostics = Diagnostics()
        diagnostics.show_progress("removing, from the full-text index too")
        erased = transcripts.delete_conversations(ids)
        for id_ in ids:
            KvStore(paths.kv_store).delete_conversation(id_)
        diagnostics.clear_progress()
        if not erased:
            diagnostics.print_notice(
                "Another program has the transcripts open; what was removed can be read in the file until it ends."
            )
    finally:
        transcripts.close()
