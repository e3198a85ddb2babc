"""`phichat logs`: the verbs that work on what was said."""

from __future__ import annotations

import importlib

import click

_VERBS = ("import", "replay")


class _Verbs(click.Group):
    """Imports a verb's module, `logs_VERB`, when it is called for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        command: click.Command = getattr(importlib.import_module(f"phichat.cli.logs_{cmd_name}"), f"logs_{cmd_name}")
        return command


@click.group(cls=_Verbs)
def logs() -> None:
    """Take in conversations from elsewhere, run replies again."""
