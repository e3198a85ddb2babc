"""The OpenAI HTTP API, as far as a model of text can answer it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
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

from phichat.chat.exchange import exchange
from phichat.engine.backend import Backend, Cancel
from phichat.errors import PhichatError, RequestRefused
from phichat.events import (
    CodeChecked,
    ContextTrimmed,
    Event,
    ModelChecking,
    ModelLoading,
    ModelReady,
    NotKept,
    PromptProgress,
    ReasoningDelta,
    SampleFinished,
    Sampling,
    TextDelta,
    TurnFinished,
    TurnStarted,
    Voted,
)
from phichat.messages import FinishReason, Message
from phichat.server import asked
from phichat.server.documents import (
    ALIVE,
    Chunks,
    completion,
    encoded,
    error_document,
    frame,
    model_document,
    refused,
)
from phichat.server.engines import Answer, Engines, Why, stopped
from phichat.server.gate import Door, Gate, error_response
from phichat.server.menu import Menu, Offer

_FINISHING_S, _PAUSE_S = 5.0, 0.5
"""How long a client may go on sending what is too large, and how long a pause in it may be."""

Kept = Callable[[Offer, tuple[Message, ...], Iterator[Event]], Iterator[Event]]
"""Writes the events of an exchange into the transcripts as they pass."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: for an answer, for a request to arrive, and between two signs of life in a silent stream."""

    answer_s: float = 600.0
    body_s: float = 30.0
    silence_s: float = 10.0


@dataclass(frozen=True, slots=True)
class House:
    """What the server is made of. tell: says a line to whoever runs it, from any thread. kept: None keeps nothing."""

    menu: Menu
    engines: Engines
    tell: Callable[[str], None]
    kept: Kept | None = None
    limits: Limits = field(default_factory=Limits)


def application(house: House, door: Door) -> Starlette:
    """The server for those that the door lets in."""

    async def models(request: Request) -> Response:
        offers = await asyncio.to_thread(house.menu.offers)
        return _json({"object": "list", "data": [model_document(offer) for offer in offers]})

    async def model(request: Request) -> Response:
        return _json(model_document(await asyncio.to_thread(house.menu.offer, request.path_params["name"])))

    async def health(request: Request) -> Response:
        return _json({"status": "ok"})

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/v1/chat/completions", _Completions(house), methods=["POST"]),
        ],
        middleware=[Middleware(Gate, door=door)],
        exception_handlers={PhichatError: _told, HTTPException: _no_such_thing, Exception: _failed},
    )


def _json(document: object) -> Response:
    return Response(encoded(document), media_type="application/json")


async def _told(request: Request, error: Exception) -> Response:
    assert isinstance(error, PhichatError)
    return error_response(refused(error))


async def _no_such_thing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    there_is = "there are /v1/chat/completions, /v1/models and /health"
    why = RequestRefused(
        f"{request.method} {request.scope['path'][:100]} is not served", there_is, status=error.status_code
    )
    response = error_response(why)
    response.headers.update(error.headers or {})
    return response


async def _failed(request: Request, error: Exception) -> Response:
    return error_response(RequestRefused("phichat itself failed", "ask again", status=500, code="internal_error"))


class _Completions:
    """Answers a chat completion, as an ASGI application: it has to notice when the client leaves."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI."""
        what = asked.read(await _body(scope, receive, self._house.limits.body_s))
        answering = asyncio.create_task(self._answer(what, send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    async def _answer(self, what: asked.Asked, send: Send) -> None:
        house = self._house
        offer = await asyncio.to_thread(house.menu.find, what.model)
        answer = await house.engines.answer(offer.name, self._work(what, offer))
        clock = asyncio.get_running_loop().call_later(house.limits.answer_s, answer.stop, Why.TIME)
        try:
            if what.streams:
                await _stream(answer, offer, send, Chunks(offer.name, what.replies, what.tells_usage), house)
            else:
                await _send_whole(answer, offer, send, what.replies, house)
        finally:
            clock.cancel()
            answer.stop(Why.LEFT)

    def _work(self, what: asked.Asked, offer: Offer) -> Callable[[Backend, Cancel], Iterator[Event]]:
        kept = self._house.kept

        def work(backend: Backend, cancel: Cancel) -> Iterator[Event]:
            events = exchange(backend, what.messages, what.params(offer.params), cancel, what.replies)
            return kept(offer, what.messages, events) if kept else events

        return work


async def _body(scope: Scope, receive: Receive, patience_s: float) -> bytes:
    """Raises RequestRefused."""
    headers = dict(scope["headers"])
    if int(headers.get(b"content-length", b"0")) > asked.MOST_BODY:
        if b"expect" not in headers:
            await _read_on(receive)
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(patience_s):
            while len(body) <= asked.MOST_BODY:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RequestRefused("The request has no end", "send all of it")
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
    except TimeoutError:
        raise RequestRefused("The request did not arrive in time", "send it again", status=408) from None
    if len(body) > asked.MOST_BODY:
        await _read_on(receive)
        raise _too_large()
    return bytes(body)


async def _read_on(receive: Receive) -> None:
    """Let a client finish what nobody wants: one whose connection is closed while it sends sees no answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_FINISHING_S):
            more = True
            while more:
                async with asyncio.timeout(_PAUSE_S):
                    more = (await receive()).get("more_body", False)


def _too_large() -> RequestRefused:
    most = f"{asked.MOST_BODY >> 20} MiB"
    return RequestRefused(f"The request is larger than {most}", "send less", status=413, code="request_too_large")


async def _left(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _stream(answer: Answer, offer: Offer, send: Send, chunks: Chunks, house: House) -> None:
    """Raises PhichatError kinds while nothing has been sent; later ones are sent."""
    begun = False
    replies: list[TurnFinished] = []
    try:
        while (events := await answer.events(house.limits.silence_s)) is not None:
            _note(events, offer, house)
            replies += _replies(events, chunks.replies)
            frames = [part for event in events if (part := _frame(event, answer, chunks))]
            if not begun and _is_evaluating(events):
                begun = True
                await send(_start("text/event-stream"))
                frames.insert(0, chunks.first())
            if begun:
                await send(_part(b"".join(frames) or ALIVE))
    except PhichatError as error:
        if not begun:
            raise refused(error, offer.hide_path) from error
        end = frame(error_document(refused(error, offer.hide_path)))
    else:
        end = frame(error_document(stopped())) if answer.why is Why.STOPPED or not replies else chunks.last(replies)
    if not begun:
        # It was ended before the model had read the prompt.
        raise _ended_early(answer)
    await send(_part(end, more=False))


def _frame(event: Event, answer: Answer, chunks: Chunks) -> bytes:
    match event:
        case ReasoningDelta():
            return chunks.reasoning(event.text)
        case TextDelta():
            return chunks.text(event.text)
        case SampleFinished():
            return b"" if _is_broken_off(event.reply, answer) else chunks.sample(event.number, event.reply)
        case TurnFinished():
            return b"" if _is_broken_off(event, answer) or chunks.replies > 1 else chunks.end(event)
        case (
            TurnStarted()
            | ModelChecking()
            | ModelLoading()
            | ModelReady()
            | ContextTrimmed()
            | PromptProgress()
            | CodeChecked()
            | NotKept()
            | Sampling()
            | Voted()
        ):
            return b""
        case _:
            assert_never(event)


def _is_broken_off(reply: TurnFinished, answer: Answer) -> bool:
    """Whether an error follows instead of an end."""
    return reply.finish_reason is FinishReason.ERROR or answer.why is Why.STOPPED


def _replies(events: list[Event], number: int) -> list[TurnFinished]:
    """Those that have ended: of several not the turn's end, which says once more what one of them was."""
    if number == 1:
        return [event for event in events if isinstance(event, TurnFinished)]
    return [event.reply for event in events if isinstance(event, SampleFinished)]


async def _send_whole(answer: Answer, offer: Offer, send: Send, number: int, house: House) -> None:
    """Raises PhichatError kinds."""
    came: list[Event] = []
    try:
        while (events := await answer.events(house.limits.silence_s)) is not None:
            _note(events, offer, house)
            came += events
    except PhichatError as error:
        raise refused(error, offer.hide_path) from error
    came.sort(key=lambda event: event.number if isinstance(event, SampleFinished) else 0)
    replies = _replies(came, number)
    if not replies or answer.why is Why.STOPPED or (answer.why and not any(reply.text for reply in replies)):
        raise _ended_early(answer)
    body = encoded(completion(offer.name, replies))
    await send(_start("application/json", (b"content-length", str(len(body)).encode())))
    await send(_part(body, more=False))


def _is_evaluating(events: list[Event]) -> bool:
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


def _note(events: list[Event], offer: Offer, house: House) -> None:
    """Take what concerns the server, and whoever runs it."""
    for event in events:
        match event:
            case ModelReady():
                for notice in house.menu.loaded(offer.name, event):
                    house.tell(notice)
            case NotKept():
                house.tell(f"This conversation is not being kept: {event.reason}.")
            case _:
                pass


def _ended_early(answer: Answer) -> RequestRefused:
    if answer.why is Why.TIME:
        return RequestRefused(
            "The time for an answer was over before it began",
            "ask for less, or start phichat serve with a larger --time-limit",
            status=504,
            code="time_limit",
        )
    return stopped()


def _start(kind: str, *more: tuple[bytes, bytes]) -> AsgiMessage:
    headers = [(b"content-type", kind.encode()), (b"cache-control", b"no-store"), *more]
    return {"type": "http.response.start", "status": 200, "headers": headers}


def _part(body: bytes, *, more: bool = True) -> AsgiMessage:
    return {"type": "http.response.body", "body": body, "more_body": more}
