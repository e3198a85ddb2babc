"""ASGI application: the part of the OpenAI HTTP API that a text model can answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from phichat.chat.context_window import MessageHistory
from phichat.chat.pipeline import TurnPipeline
from phichat.chat.presenter import TurnPresenter, present
from phichat.engine.backend import Backend, CancelToken
from phichat.errors import ApiError, PhichatError
from phichat.events import (
    Event,
    ModelReady,
    PromptProgress,
    ReasoningDelta,
    SampleFinished,
    TextDelta,
    TranscriptUnavailable,
    TurnFinished,
)
from phichat.server import chat_request
from phichat.server.access import AccessMiddleware, AccessPolicy, error_response
from phichat.server.dispatch import Dispatcher, GenerationTask, StopCause, shutting_down_error
from phichat.server.model_provider import ModelProvider, ServedModel
from phichat.server.responses import (
    SSE_KEEPALIVE,
    ChunkBuilder,
    completion_document,
    encode_json,
    encode_sse,
    error_document,
    model_document,
    to_api_error,
)
from phichat.transcript.recorder import Recorder
from phichat.types import FinishReason, Message

_DRAIN_TIMEOUT_S, _DRAIN_IDLE_TIMEOUT_S = 5.0, 0.5
"""How long a client may continue to send a body that is too large, and how long it may pause."""

RecorderFactory = Callable[[ServedModel, Sequence[Message]], AbstractContextManager[Recorder]]
"""Makes the recorder of one request."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits of a request; keepalive_interval_s is between two signs of life in a silent stream."""

    time_limit_s: float = 600.0
    body_timeout_s: float = 30.0
    keepalive_interval_s: float = 10.0


@dataclass(frozen=True, slots=True)
class ServerContext:
    """Parts of the server. log: prints a line for its operator, from any thread. open_recorder: None saves nothing."""

    models: ModelProvider
    dispatcher: Dispatcher
    log: Callable[[str], None]
    open_recorder: RecorderFactory | None = None
    limits: Limits = field(default_factory=Limits)


def create_app(context: ServerContext, policy: AccessPolicy) -> Starlette:
    """Return the application for clients that the policy admits."""

    async def list_models(request: Request) -> Response:
        served_models = await asyncio.to_thread(context.models.list_models)
        return _json_response({"object": "list", "data": [model_document(model) for model in served_models]})

    async def get_model(request: Request) -> Response:
        return _json_response(
            model_document(await asyncio.to_thread(context.models.get_model, request.path_params["name"]))
        )

    async def get_health(request: Request) -> Response:
        return _json_response({"status": "ok"})

    return Starlette(
        routes=[
            Route("/health", get_health),
            Route("/v1/models", list_models),
            Route("/v1/models/{name:path}", get_model),
            Route("/v1/chat/completions", _CompletionsEndpoint(context), methods=["POST"]),
        ],
        middleware=[Middleware(AccessMiddleware, policy=policy)],
        exception_handlers={
            PhichatError: _handle_phichat_error,
            HTTPException: _handle_http_error,
            Exception: _handle_unexpected_error,
        },
    )


def _json_response(document: object) -> Response:
    return Response(encode_json(document), media_type="application/json")


async def _handle_phichat_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PhichatError)
    return error_response(to_api_error(error))


async def _handle_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"Unknown route {request.method} {request.scope['path'][:100]}"
    next_step = "Use one of /v1/chat/completions, /v1/models and /health"
    response = error_response(ApiError(message, next_step, status=error.status_code))
    response.headers.update(error.headers or {})
    return response


async def _handle_unexpected_error(request: Request, error: Exception) -> Response:
    message, next_step = "Internal server error", "Try again, or look at the log of phichat serve"
    return error_response(ApiError(message, next_step, status=500, code="internal_error"))


class _CompletionsEndpoint:
    """ASGI endpoint of chat completions, because it has to notice when the client disconnects."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI request."""
        request = chat_request.parse_request(await _read_body(Request(scope, receive), self._context.limits))
        response_task = asyncio.create_task(self._respond(request, send))
        disconnect_task = asyncio.create_task(_wait_for_disconnect(receive))
        try:
            await asyncio.wait((response_task, disconnect_task), return_when=asyncio.FIRST_COMPLETED)
            if response_task.done():
                response_task.result()
        finally:
            for task in (response_task, disconnect_task):
                task.cancel()
            await asyncio.gather(response_task, disconnect_task, return_exceptions=True)

    async def _respond(self, request: chat_request.ChatCompletionRequest, send: Send) -> None:
        context = self._context
        model = await asyncio.to_thread(context.models.find_model, request.model)
        task = await context.dispatcher.submit(model.name, self._make_task(request, model))
        timer = asyncio.get_running_loop().call_later(context.limits.time_limit_s, task.stop, StopCause.TIMEOUT)
        try:
            await _CompletionResponse(context, request, model, task, send).send_all()
        finally:
            timer.cancel()
            task.stop(StopCause.DISCONNECTED)

    def _make_task(
        self, request: chat_request.ChatCompletionRequest, model: ServedModel
    ) -> Callable[[Backend, CancelToken], Iterator[Event]]:
        open_recorder, history = self._context.open_recorder, MessageHistory(request.messages)

        def generate(backend: Backend, cancel: CancelToken) -> Iterator[Event]:
            params = request.sampling_params(model.params)
            with open_recorder(model, request.messages) if open_recorder else nullcontext() as recorder:
                pipeline = TurnPipeline(backend, recorder, model.training_scope, checks_code=recorder is not None)
                yield from pipeline.run(history, params, cancel, n=request.n)

        return generate


async def _read_body(request: Request, limits: Limits) -> bytes:
    """Raises ApiError."""
    body, max_bytes = bytearray(), chat_request.MAX_BODY_BYTES
    is_too_large = int(request.headers.get("content-length", 0)) > max_bytes
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            chunks = request.stream()
            while not is_too_large and (chunk := await anext(chunks, None)) is not None:
                body += chunk
                is_too_large = len(body) > max_bytes
    except TimeoutError:
        raise ApiError("The request did not arrive in time", "Send it again", status=408) from None
    except ClientDisconnect:
        raise ApiError("The request body is incomplete", "Send all of it") from None
    if not is_too_large:
        return bytes(body)
    if body or "expect" not in request.headers:
        # Let the client finish sending: one whose connection is closed while it sends sees no response.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_TIMEOUT_S):
                more = True
                while more:
                    async with asyncio.timeout(_DRAIN_IDLE_TIMEOUT_S):
                        more = (await request.receive()).get("more_body", False)
    message = f"The request is larger than {max_bytes >> 20} MiB"
    raise ApiError(message, "Send a smaller request", status=413, code="request_too_large")


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _CompletionResponse(TurnPresenter):
    """Response to one chat completion, streamed or whole, made from the events of its turn."""

    def __init__(
        self,
        context: ServerContext,
        request: chat_request.ChatCompletionRequest,
        model: ServedModel,
        task: GenerationTask,
        send: Send,
    ) -> None:
        self._context, self._request, self._model, self._task, self._send = context, request, model, task, send
        self._chunks = ChunkBuilder(model.name, request.n, request.include_usage)
        self._frames: list[bytes] = [self._chunks.role_chunks()]
        self._replies: dict[int, TurnFinished] = {}
        self._logged_notices: set[str] = set()
        self._has_output = self._is_sending = False

    async def send_all(self) -> None:
        """Send the response. Raises PhichatError kinds while nothing has been sent; later errors are sent."""
        try:
            while (events := await self._task.next_events(self._context.limits.keepalive_interval_s)) is not None:
                for event in events:
                    present(event, self)
                if self._request.stream and self._has_output:
                    await self._send_frames()
        except PhichatError as exc:
            error: ApiError | None = to_api_error(exc, self._model.hide_path)
        else:
            error = self._find_end_error()
        replies = [self._replies[index] for index in sorted(self._replies)]
        if error and not self._is_sending:
            raise error
        if self._is_sending:
            end = encode_sse(error_document(error)) if error else self._chunks.final_chunks(replies)
            await self._send({"type": "http.response.body", "body": end})
        else:
            body = encode_json(completion_document(self._model.name, replies))
            await self._send_head("application/json", (b"content-length", str(len(body)).encode()))
            await self._send({"type": "http.response.body", "body": body})

    def _find_end_error(self) -> ApiError | None:
        """Return the error of a turn that was stopped too early for a response."""
        cause, has_text = self._task.stop_cause, any(reply.text for reply in self._replies.values())
        is_complete = bool(self._replies) and cause is not StopCause.SHUTDOWN
        if self._is_sending:
            return None if is_complete else shutting_down_error()
        if is_complete and not self._request.stream and (cause is None or has_text):
            return None
        if cause is not StopCause.TIMEOUT:
            return shutting_down_error()
        next_step = "Ask for less, or start phichat serve with a larger --time-limit"
        return ApiError("The time limit ended before the answer began", next_step, status=504, code="time_limit")

    async def _send_frames(self) -> None:
        if not self._is_sending:
            self._is_sending = True
            await self._send_head("text/event-stream")
        body, self._frames = b"".join(self._frames) or SSE_KEEPALIVE, []
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def _send_head(self, content_type: str, *extra_headers: tuple[bytes, bytes]) -> None:
        headers = [(b"content-type", content_type.encode()), (b"cache-control", b"no-store"), *extra_headers]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    def _finish_reply(self, index: int, reply: TurnFinished) -> None:
        self._replies[index] = reply
        if reply.finish_reason is not FinishReason.ERROR and self._task.stop_cause is not StopCause.SHUTDOWN:
            self._frames.append(self._chunks.finish_chunk(index, reply))  # else an error follows

    def _log_notices(self, notices: Sequence[str]) -> None:
        for notice in notices:
            if notice not in self._logged_notices:
                self._logged_notices.add(notice)
                self._context.log(notice)

    def on_model_ready(self, event: ModelReady) -> None:
        """Log the notices that this server has not logged before."""
        self._log_notices(self._context.models.on_model_loaded(self._model.name, event))

    def on_transcript_unavailable(self, event: TranscriptUnavailable) -> None:
        """Log that nothing is saved."""
        self._context.log(f"This conversation is not being saved: {event.reason}.")

    def on_prompt_progress(self, event: PromptProgress) -> None:
        """Begin the stream: from here on only the engine can fail."""
        self._has_output = True

    def on_reasoning_delta(self, event: ReasoningDelta) -> None:
        """Add a piece of reasoning."""
        self._has_output = True
        self._frames.append(self._chunks.delta_chunk(0, reasoning_content=event.text))

    def on_text_delta(self, event: TextDelta) -> None:
        """Add a piece of text."""
        self._has_output = True
        self._frames.append(self._chunks.delta_chunk(0, content=event.text))

    def on_sample_finished(self, event: SampleFinished) -> None:
        """Add one of several replies, whole."""
        self._log_notices(event.reply.notices)
        if event.reply.reasoning:
            self._frames.append(self._chunks.delta_chunk(event.index, reasoning_content=event.reply.reasoning))
        if event.reply.text:
            self._frames.append(self._chunks.delta_chunk(event.index, content=event.reply.text))
        self._finish_reply(event.index, event.reply)

    def on_turn_finished(self, event: TurnFinished) -> None:
        """End the only reply; several have ended before, and the first of them is repeated here."""
        self._log_notices(event.notices)
        self._has_output |= event.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
        if self._request.n == 1:
            self._finish_reply(0, event)
