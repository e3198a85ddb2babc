"""A run of the server, put together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from phichat.config import Config
from phichat.errors import UsageError
from phichat.paths import Paths
from phichat.server.app import House, Kept, Limits, application
from phichat.server.engines import Backends, Engines
from phichat.server.gate import door
from phichat.server.listening import bound, place, remarks, server
from phichat.server.menu import Menu
from phichat.wiring import chat_backend, engines_can_stay

_AT_ONCE = 4
"""Requests that an engine which takes several is asked at the same time. It gives each a batch or a token in turn."""

_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True)
class Serving:
    """What was asked for.

    key: "" for none. waiting: requests that may stand in line behind those that are being answered. keeps: in the
    transcripts.
    """

    host: str = "127.0.0.1"
    port: int = 0
    key: str = ""
    allowed: tuple[str, ...] = ()
    waiting: int = 32
    time_limit_s: float = 600.0
    keeps: bool = False
    debug: bool = False


def serve_until_stopped(wanted: Serving, config: Config, paths: Paths, tell: Callable[[str], None]) -> None:
    """Serve until a signal. tell: says a line to whoever runs it, from any thread, and makes foreign text harmless.

    Raises ServeError, UsageError, ModelNotInstalled and ConfigError before anything is served.
    """
    menu = Menu(config, paths, partial(chat_backend, is_choice=False))
    backends = Backends(menu.backend)
    stay = engines_can_stay(config, paths)
    where = place(wanted.host, wanted.port)
    if not wanted.key and not where.is_loopback:
        raise UsageError(
            f"At {wanted.host} others could reach phichat serve, and there is no key",
            "put one into an environment variable and name that with --api-key-env",
        )
    with bound(where) as listening:
        if menu.notice:
            tell(menu.notice)
        let_in = door(wanted.host, listening.getsockname()[:2], wanted.allowed, wanted.key)

        async def run() -> None:
            most_s = wanted.time_limit_s
            engines = Engines(
                backends,
                at_once=_AT_ONCE if stay else 1,
                waiting=wanted.waiting,
                patience_s=most_s,
                pause_s=_PAUSE_S if stay else None,
            )
            limits = Limits(answer_s=most_s)
            house = House(menu, engines, tell, _kept(paths) if wanted.keeps else None, limits)
            app = application(house, let_in)
            await server(app, listening, engines, tell, debug=wanted.debug).serve([listening])

        try:
            with remarks(tell, debug=wanted.debug):
                asyncio.run(run())
        finally:
            backends.let_go()


def _kept(paths: Paths) -> Kept:
    from phichat.server.keeping import Keeping
    from phichat.transcript.store import Store
    from phichat.wiring import RECORDING_PATIENCE_S

    return Keeping(lambda: Store.open(paths.logs, patience_s=RECORDING_PATIENCE_S)).record
