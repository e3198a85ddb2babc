"""The OpenAI HTTP API, as far as a model of text can answer it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import assert_never

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope, Send

from phichat.chat.pipeline import MessageHistory, TurnPipeline
from phichat.engine.backend import Backend, CancelToken
from phichat.errors import ApiError, PhichatError
from phichat.events import (
    CodeChecked,
    ContextTrimmed,
    Event,
    ModelLoading,
    ModelReady,
    ModelVerifying,
    PromptProgress,
    ReasoningDelta,
    SampleFinished,
    SamplingProgress,
    TextDelta,
    TranscriptUnavailable,
    TurnFinished,
    TurnStarted,
    VoteResult,
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
"""How long a client may go on sending what is too large, and how long a pause in it may be."""

RecorderFactory = Callable[[ServedModel, Sequence[Message]], AbstractContextManager[Recorder]]
"""Makes the recorder of one request."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: for an answer, for a request to arrive, and between two signs of life in a silent stream."""

    time_limit_s: float = 600.0
    body_timeout_s: float = 30.0
    keepalive_interval_s: float = 10.0


@dataclass(frozen=True, slots=True)
class ServerContext:
    """What the server is made of. tell: says a line to whoever runs it, from any thread. kept: None keeps nothing."""

    models: ModelProvider
    dispatcher: Dispatcher
    log: Callable[[str], None]
    open_recorder: RecorderFactory | None = None
    limits: Limits = field(default_factory=Limits)


def create_app(context: ServerContext, policy: AccessPolicy) -> Starlette:
    """The server for those that the door lets in."""

    async def list_models(request: Request) -> Response:
        served_models = await asyncio.to_thread(context.models.list_models)
        return _json_response({"object": "list", "data": [model_document(offer) for offer in served_models]})

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
    hint = "there are /v1/chat/completions, /v1/models and /health"
    api_error = ApiError(
        f"{request.method} {request.scope['path'][:100]} is not served", hint, status=error.status_code
    )
    response = error_response(api_error)
    response.headers.update(error.headers or {})
    return response


async def _handle_unexpected_error(request: Request, error: Exception) -> Response:
    return error_response(ApiError("phichat itself failed", "Ask again", status=500, code="internal_error"))


class _CompletionsEndpoint:
    """Answers a chat completion, as an ASGI application: it has to notice when the client leaves."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI."""
        request = chat_request.parse_request(await _read_body(scope, receive, self._context.limits.body_timeout_s))
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
            if request.stream:
                await _send_stream(
                    task, model, send, ChunkBuilder(model.name, request.n, request.include_usage), context
                )
            else:
                await _send_completion(task, model, send, request.n, context)
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


async def _read_body(scope: Scope, receive: Receive, timeout_s: float) -> bytes:
    """Raises RequestRefused."""
    headers = dict(scope["headers"])
    if int(headers.get(b"content-length", b"0")) > chat_request.MAX_BODY_BYTES:
        if b"expect" not in headers:
            await _drain_body(receive)
        raise _too_large_error()
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            while len(body) <= chat_request.MAX_BODY_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ApiError("The request has no end", "Send all of it")
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
    except TimeoutError:
        raise ApiError("The request did not arrive in time", "Send it again", status=408) from None
    if len(body) > chat_request.MAX_BODY_BYTES:
        await _drain_body(receive)
        raise _too_large_error()
    return bytes(body)


async def _drain_body(receive: Receive) -> None:
    """Let a client finish what nobody wants: one whose connection is closed while it sends sees no answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_TIMEOUT_S):
            more = True
            while more:
                async with asyncio.timeout(_DRAIN_IDLE_TIMEOUT_S):
                    more = (await receive()).get("more_body", False)


def _too_large_error() -> ApiError:
    limit = f"{chat_request.MAX_BODY_BYTES >> 20} MiB"
    return ApiError(f"The request is larger than {limit}", "Send less", status=413, code="request_too_large")


async def _wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_stream(
    task: GenerationTask, model: ServedModel, send: Send, chunks: ChunkBuilder, context: ServerContext
) -> None:
    """Raises PhichatError kinds while nothing has been sent; later ones are sent."""
    started = False
    replies: list[TurnFinished] = []
    try:
        while (events := await task.next_events(context.limits.keepalive_interval_s)) is not None:
            _handle_notices(events, model, context)
            replies += _finished_replies(events, chunks.n)
            frames = [part for event in events if (part := _event_to_frame(event, task, chunks))]
            if not started and _has_started(events):
                started = True
                await send(_response_start("text/event-stream"))
                frames.insert(0, chunks.role_chunks())
            if started:
                await send(_response_body(b"".join(frames) or SSE_KEEPALIVE))
    except PhichatError as error:
        if not started:
            raise to_api_error(error, model.hide_path) from error
        final_frame = encode_sse(error_document(to_api_error(error, model.hide_path)))
    else:
        final_frame = (
            encode_sse(error_document(shutting_down_error()))
            if task.stop_cause is StopCause.SHUTDOWN or not replies
            else chunks.final_chunks(replies)
        )
    if not started:
        # It was ended before the model had read the prompt.
        raise _ended_early_error(task)
    await send(_response_body(final_frame, more_body=False))


def _event_to_frame(event: Event, task: GenerationTask, chunks: ChunkBuilder) -> bytes:
    match event:
        case ReasoningDelta():
            return chunks.reasoning_chunk(event.text)
        case TextDelta():
            return chunks.text_chunk(event.text)
        case SampleFinished():
            return b"" if _ends_in_error(event.reply, task) else chunks.sample_chunks(event.index, event.reply)
        case TurnFinished():
            return b"" if _ends_in_error(event, task) or chunks.n > 1 else chunks.finish_chunk(event)
        case (
            TurnStarted()
            | ModelVerifying()
            | ModelLoading()
            | ModelReady()
            | ContextTrimmed()
            | PromptProgress()
            | CodeChecked()
            | TranscriptUnavailable()
            | SamplingProgress()
            | VoteResult()
        ):
            return b""
        case _:
            assert_never(event)


def _ends_in_error(reply: TurnFinished, task: GenerationTask) -> bool:
    """Whether an error follows instead of an end."""
    return reply.finish_reason is FinishReason.ERROR or task.stop_cause is StopCause.SHUTDOWN


def _finished_replies(events: list[Event], n: int) -> list[TurnFinished]:
    """Those that have ended: of several not the turn's end, which says once more what one of them was."""
    if n == 1:
        return [event for event in events if isinstance(event, TurnFinished)]
    return [event.reply for event in events if isinstance(event, SampleFinished)]


async def _send_completion(
    task: GenerationTask, model: ServedModel, send: Send, n: int, context: ServerContext
) -> None:
    """Raises PhichatError kinds."""
    all_events: list[Event] = []
    try:
        while (events := await task.next_events(context.limits.keepalive_interval_s)) is not None:
            _handle_notices(events, model, context)
            all_events += events
    except PhichatError as error:
        raise to_api_error(error, model.hide_path) from error
    all_events.sort(key=lambda event: event.index if isinstance(event, SampleFinished) else 0)
    replies = _finished_replies(all_events, n)
    if (
        not replies
        or task.stop_cause is StopCause.SHUTDOWN
        or (task.stop_cause and not any(reply.text for reply in replies))
    ):
        raise _ended_early_error(task)
    body = encode_json(completion_document(model.name, replies))
    await send(_response_start("application/json", (b"content-length", str(len(body)).encode())))
    await send(_response_body(body, more_body=False))


def _has_started(events: list[Event]) -> bool:
    """Whether the model has begun: from there on, only the engine can fail."""
    for event in events:
        match event:
            case PromptProgress() | ReasoningDelta() | TextDelta():
                return True
            case TurnFinished(finish_reason=FinishReason.STOP | FinishReason.LENGTH):
                return True
            case _:
                pass
    return False


def _handle_notices(events: list[Event], model: ServedModel, context: ServerContext) -> None:
    """Take what concerns the server, and whoever runs it."""
    for event in events:
        match event:
            case ModelReady():
                for notice in context.models.on_model_loaded(model.name, event):
                    context.log(notice)
            case TranscriptUnavailable():
                context.log(f"This conversation is not being kept: {event.reason}.")
            case _:
                pass


def _ended_early_error(task: GenerationTask) -> ApiError:
    if task.stop_cause is StopCause.TIMEOUT:
        return ApiError(
            "The time for an answer was over before it began",
            "Ask for less, or start phichat serve with a larger --time-limit",
            status=504,
            code="time_limit",
        )
    return shutting_down_error()


def _response_start(content_type: str, *extra_headers: tuple[bytes, bytes]) -> AsgiMessage:
    headers = [(b"content-type", content_type.encode()), (b"cache-control", b"no-store"), *extra_headers]
    return {"type": "http.response.start", "status": 200, "headers": headers}


def _response_body(body: bytes, *, more_body: bool = True) -> AsgiMessage:
    return {"type": "http.response.body", "body": body, "more_body": more_body}
