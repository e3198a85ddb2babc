"""Composition of a running server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from phichat.errors import UsageError
from phichat.server.access import access_policy
from phichat.server.app import Limits, RecorderFactory, ServerContext, create_app
from phichat.server.dispatch import BackendPool, Dispatcher
from phichat.server.model_provider import ModelProvider
from phichat.server.uvicorn_server import bind_socket, create_server, forward_logs, resolve_address
from phichat.services.app_context import AppContext
from phichat.services.backend_factory import BackendFactory
from phichat.services.daemon_service import shares_engines
from phichat.services.transcript_service import TranscriptService

_MAX_CONCURRENT_GENERATIONS = 4
"""Requests that share a background engine, which evaluates a batch or a token of each in turn."""

_IDLE_RELEASE_S = 5.0


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
    bind_address = resolve_address(settings.host, settings.port)
    if not settings.api_key and not bind_address.is_loopback:
        raise UsageError(
            f"Other machines can reach {settings.host}, but no API key is set",
            "Put a key in an environment variable and pass its name with --api-key-env",
        )
    with bind_socket(bind_address) as listener:
        if models.notice:
            log(models.notice)
        policy = access_policy(settings.host, listener.getsockname()[:2], settings.allowed_hosts, settings.api_key)

        async def run() -> None:
            dispatcher = Dispatcher(
                pool,
                max_concurrent=_MAX_CONCURRENT_GENERATIONS if use_background else 1,
                max_waiting=settings.max_waiting,
                queue_timeout_s=settings.time_limit_s,
                idle_release_s=_IDLE_RELEASE_S if use_background else None,
            )
            recorder = _create_recorder(context) if settings.record else None
            parts = ServerContext(models, dispatcher, log, recorder, Limits(settings.time_limit_s))
            app = create_app(parts, policy)
            await create_server(app, listener, dispatcher, log, debug=settings.debug).serve([listener])

        try:
            with forward_logs(log, debug=settings.debug):
                asyncio.run(run())
        finally:
            pool.release_idle()


def _create_recorder(context: AppContext) -> RecorderFactory:
    from phichat.server.transcripts import ConversationTracker

    return ConversationTracker(TranscriptService(context).open_recorder_store).open_recorder
