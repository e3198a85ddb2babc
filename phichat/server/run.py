"""Composition of a running server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from phichat.server.access import access_policy
from phichat.server.app import ServerContext, create_app
from phichat.server.dispatch import BackendPool, Dispatcher
from phichat.server.model_provider import ModelProvider
from phichat.server.uvicorn_server import PhichatServer, bind_socket, forward_logs
from phichat.services.app_context import AppContext
from phichat.services.backend_factory import BackendFactory
from phichat.services.daemon_service import shares_engines
from phichat.services.transcript_service import TranscriptService


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Settings of `phichat serve`.

    api_key: "" for none. max_waiting: length of the queue. record: save requests in the transcripts.
    """

    host: str = "127.0.0.1"
    port: int = 0
    api_key: str = ""
    allowed_hosts: tuple[str, ...] = ()
    max_waiting: int = 32
    time_limit_s: float = 600.0
    record: bool = False
    debug: bool = False


def serve_until_stopped(settings: ServeSettings, context: AppContext, log: Callable[[str], None]) -> None:
    """Serve until a signal. log: prints a line for the operator, from any thread, and sanitizes it.

    Raises ServerBindError, UsageError, ModelNotInstalled and ConfigError before anything is served.
    """
    models = ModelProvider(context, lambda one: BackendFactory(one).create_chat_backend(explicit=False))
    pool = BackendPool(models.create_backend)
    use_background = shares_engines(context)
    with bind_socket(settings.host, settings.port, has_key=bool(settings.api_key)) as listener:
        if models.notice:
            log(models.notice)
        policy = access_policy(settings.host, listener.getsockname()[:2], settings.allowed_hosts, settings.api_key)

        async def run() -> None:
            dispatcher = Dispatcher(
                pool,
                # Requests share a background engine, which evaluates a batch or a token of each in turn.
                max_concurrent=4 if use_background else 1,
                max_waiting=settings.max_waiting,
                queue_timeout_s=settings.time_limit_s,
                idle_release_s=5.0 if use_background else None,
            )
            open_recorder = None
            if settings.record:
                from phichat.server.transcripts import ConversationTracker

                open_recorder = ConversationTracker(TranscriptService(context).open_recorder_store).open_recorder
            parts = ServerContext(models, dispatcher, log, open_recorder, settings.time_limit_s)
            server = PhichatServer(create_app(parts, policy), dispatcher, log, debug=settings.debug)
            await server.serve([listener])

        try:
            with forward_logs(log, debug=settings.debug):
                asyncio.run(run())
        finally:
            pool.release_idle()
