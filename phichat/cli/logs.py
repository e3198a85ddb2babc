"""`phichat logs`: the verbs about what was said, found by name so that each run imports only its own."""

from __future__ import annotations

import importlib

import click

_VERBS = {"import": "logs_import", "replay": "logs_replay"}
"""The module of each, which has a command of its own name."""


class _Logs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        name = _VERBS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"phichat.cli.{name}"), name)
        return command


@click.group(cls=_Logs)
def logs() -> None:
    """What was said: take it in from elsewhere, run it again."""
