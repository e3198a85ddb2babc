"""A command group that imports a subcommand when it is called."""

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """Group whose subcommands are imported on demand: `--version` and completion load none of them.

    subcommands: name to "module:attribute". aliases: other name to name.
    """

    def __init__(
        self, *args: Any, subcommands: Mapping[str, str], aliases: Mapping[str, str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._subcommands, self._aliases = subcommands, aliases or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._subcommands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = self._subcommands.get(self._aliases.get(cmd_name, cmd_name))
        if target is None:
            return None
        module, _, attribute = target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command
