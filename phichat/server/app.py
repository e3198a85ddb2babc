"""ASGI application: the part of the OpenAI HTTP API that a text model can answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from phichat import events
from phichat.chat.context_window import MessageHistory
from phichat.chat.pipeline import TurnPipeline
from phichat.chat.presenter import TurnPresenter, format_unavailable, present
from phichat.engine.backend import Backend, CancelToken
from phichat.errors import ApiError, PhichatError
from phichat.server import responses
from phichat.server.access import AccessMiddleware, AccessPolicy
from phichat.server.chat_request import MAX_BODY_BYTES, ChatCompletionRequest, parse_request
from phichat.server.dispatch import Dispatcher, GenerationTask, StopCause, shutting_down_error
from phichat.server.model_provider import ModelProvider, ServedModel
from phichat.transcript.recorder import Recorder
from phichat.types import FinishReason, Message

_DRAIN_TIMEOUT_S, _DRAIN_IDLE_TIMEOUT_S = 5.0, 0.5
"""How long a client may continue to send a body that is too large, and how long it may pause."""

RecorderFactory = Callable[[ServedModel, Sequence[Message]], contextlib.AbstractContextManager[Recorder]]
"""Makes the recorder of one request."""


@dataclass(frozen=True, slots=True)
class ServerContext:
    """Parts and time limits of the server.

    log: prints a line for its operator, from any thread. open_recorder: None saves nothing. time_limit_s: of a
    response. keepalive_interval_s: between two signs of life in a silent stream.
    """

    models: ModelProvider
    dispatcher: Dispatcher
    log: Callable[[str], None]
    open_recorder: RecorderFactory | None = None
    time_limit_s: float = 600.0
    body_timeout_s: float = 30.0
    keepalive_interval_s: float = 10.0


def create_app(context: ServerContext, policy: AccessPolicy) -> Starlette:
    """Return the application for clients that the policy admits."""

    async def list_models(request: Request) -> Response:
        served_models = await asyncio.to_thread(context.models.list_models)
        documents = [responses.model_document(model) for model in served_models]
        return responses.json_response({"object": "list", "data": documents})

    async def get_model(request: Request) -> Response:
        model = await asyncio.to_thread(context.models.get_model, request.path_params["name"])
        return responses.json_response(responses.model_document(model))

    async def get_health(request: Request) -> Response:
        return responses.json_response({"status": "ok"})

    routes = [
        Route("/health", get_health),
        Route("/v1/models", list_models),
        Route("/v1/models/{name:path}", get_model),
        Route("/v1/chat/completions", _CompletionsEndpoint(context), methods=["POST"]),
    ]
    error_handlers = dict.fromkeys((PhichatError, HTTPException, Exception), _handle_error)
    return Starlette(
        routes=routes, middleware=[Middleware(AccessMiddleware, policy=policy)], exception_handlers=error_handlers
    )


async def _handle_error(request: Request, error: Exception) -> Response:
    if isinstance(error, PhichatError):
        return responses.error_response(responses.to_api_error(error))
    if isinstance(error, HTTPException):
        message = f"Unknown route {request.method} {request.scope['path'][:100]}"
        next_step = "Use one of /v1/chat/completions, /v1/models and /health"
        response = responses.error_response(ApiError(message, next_step, status=error.status_code))
        response.headers.update(error.headers or {})
        return response
    message, next_step = "Internal server error", "Try again, or look at the log of phichat serve"
    return responses.error_response(ApiError(message, next_step, status=500, code="internal_error"))


@dataclass(frozen=True)
class _CompletionsEndpoint:
    """ASGI endpoint of chat completions, because it has to notice when the client disconnects."""

    context: ServerContext

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = parse_request(await _read_body(Request(scope, receive), self.context.body_timeout_s))
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

    async def _respond(self, request: ChatCompletionRequest, send: Send) -> None:
        context = self.context
        model = await asyncio.to_thread(context.models.find_model, request.model)

        def generate(backend: Backend, cancel: CancelToken) -> Iterator[events.Event]:
            history, params = MessageHistory(request.messages), request.sampling_params(model.params)
            open_recorder = context.open_recorder
            with open_recorder(model, request.messages) if open_recorder else contextlib.nullcontext() as recorder:
                pipeline = TurnPipeline(backend, recorder, model.training_scope, checks_code=recorder is not None)
                yield from pipeline.run(history, params, cancel, n=request.n)

        task = await context.dispatcher.submit(model.name, generate)
        timer = asyncio.get_running_loop().call_later(context.time_limit_s, task.stop, StopCause.TIMEOUT)
        try:
            await _CompletionResponse(context, request, model, task, send).send_all()
        finally:
            timer.cancel()
            task.stop(StopCause.DISCONNECTED)


async def _read_body(request: Request, timeout_s: float) -> bytes:
    """Raises ApiError."""
    body = bytearray()
    is_too_large = int(request.headers.get("content-length", 0)) > MAX_BODY_BYTES
    try:
        async with asyncio.timeout(timeout_s):
            chunks = request.stream()
            while not is_too_large and (chunk := await anext(chunks, None)) is not None:
                body += chunk
                is_too_large = len(body) > MAX_BODY_BYTES
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
    message = f"The request is larger than {MAX_BODY_BYTES >> 20} MiB"
    raise ApiError(message, "Send a smaller request", status=413, code="request_too_large")


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@dataclass(eq=False)
class _CompletionResponse(TurnPresenter):
    """Response to one chat completion, streamed or whole, made from the events of its turn."""

    context: ServerContext
    request: ChatCompletionRequest
    model: ServedModel
    task: GenerationTask
    send: Send

    def __post_init__(self) -> None:
        self._completion = responses.CompletionBuilder(self.model.name, self.request.n, self.request.include_usage)
        self._frames = [self._completion.role_chunks()]
        self._replies: dict[int, events.TurnFinished] = {}
        self._logged_notices: set[str] = set()
        self._has_output = self._is_sending = False

    async def send_all(self) -> None:
        """Send the response. Raises PhichatError kinds while nothing has been sent; later errors are sent."""
        try:
            while (batch := await self.task.next_events(self.context.keepalive_interval_s)) is not None:
                for event in batch:
                    present(event, self)
                if self.request.stream and self._has_output:
                    await self._send_frames()
        except PhichatError as exc:
            error: ApiError | None = responses.to_api_error(exc, self.model.hide_path)
        else:
            error = self._find_end_error()
        replies = [self._replies[index] for index in sorted(self._replies)]
        if error and not self._is_sending:
            raise error
        if self._is_sending:
            body = responses.error_event(error) if error else self._completion.final_chunks(replies)
        else:
            body = responses.encode_json(self._completion.whole_document(replies))
            await self._send_head("application/json", (b"content-length", str(len(body)).encode()))
        await self.send({"type": "http.response.body", "body": body})

    def _find_end_error(self) -> ApiError | None:
        """Return the error of a turn that was stopped too early for a response."""
        cause, has_text = self.task.stop_cause, any(reply.text for reply in self._replies.values())
        is_complete = bool(self._replies) and cause is not StopCause.SHUTDOWN
        if self._is_sending:
            return None if is_complete else shutting_down_error()
        if is_complete and not self.request.stream and (cause is None or has_text):
            return None
        if cause is not StopCause.TIMEOUT:
            return shutting_down_error()
        next_step = "Ask for less, or start phichat serve with a larger --time-limit"
        return ApiError("The time limit ended before the answer began", next_step, status=504, code="time_limit")

    async def _send_frames(self) -> None:
        if not self._is_sending:
            self._is_sending = True
            await self._send_head("text/event-stream")
        body, self._frames = b"".join(self._frames) or responses.SSE_KEEPALIVE, []
        await self.send({"type": "http.response.body", "body": body, "more_body": True})

    async def _send_head(self, content_type: str, *extra_headers: tuple[bytes, bytes]) -> None:
        headers = [(b"content-type", content_type.encode()), (b"cache-control", b"no-store"), *extra_headers]
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})

    def on_model_ready(self, event: events.ModelReady) -> None:
        self._log_notices(self.context.models.on_model_loaded(self.model.name, event))

    def on_transcript_unavailable(self, event: events.TranscriptUnavailable) -> None:
        self.context.log(format_unavailable(event))

    def on_prompt_progress(self, event: events.PromptProgress) -> None:
        self._has_output = True  # from here on only the engine can fail

    def on_reasoning_delta(self, event: events.ReasoningDelta) -> None:
        self._has_output = True
        self._add_texts(0, event.text, "")

    def on_text_delta(self, event: events.TextDelta) -> None:
        self._has_output = True
        self._add_texts(0, "", event.text)

    def on_sample_finished(self, event: events.SampleFinished) -> None:
        self._add_texts(event.index, event.reply.reasoning, event.reply.text)
        self._finish_reply(event.index, event.reply)

    def on_turn_finished(self, event: events.TurnFinished) -> None:
        self._has_output |= event.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
        if self.request.n == 1:
            self._finish_reply(0, event)
        else:  # the replies have ended before, and the first of them is repeated here
            self._log_notices(event.notices)

    def _add_texts(self, index: int, reasoning: str, text: str) -> None:
        if reasoning:
            self._frames.append(self._completion.delta_chunk(index, reasoning_content=reasoning))
        if text:
            self._frames.append(self._completion.delta_chunk(index, content=text))

    def _finish_reply(self, index: int, reply: events.TurnFinished) -> None:
        self._log_notices(reply.notices)
        self._replies[index] = reply
        if reply.finish_reason is not FinishReason.ERROR and self.task.stop_cause is not StopCause.SHUTDOWN:
            self._frames.append(self._completion.finish_chunk(index, reply))  # else an error follows

    def _log_notices(self, notices: Sequence[str]) -> None:
        for notice in notices:
            if notice not in self._logged_notices:
                self._logged_notices.add(notice)
                self.context.log(notice)
