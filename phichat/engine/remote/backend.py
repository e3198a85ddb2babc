"""The backend that asks a server."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from multiprocessing.connection import wait

from phichat.endpoints import Served
from phichat.engine.backend import Cancel, GenerationEvent, LoadEvent, SampleEvent
from phichat.engine.protocol import Generated, OfSample, Said
from phichat.engine.remote import request
from phichat.engine.remote.served import ABOUT_S, ServedModel, context_of_llama_server, models_of
from phichat.engine.remote.server import Server
from phichat.engine.remote.trouble import Kind, Scrubber, Trouble, explain, overflow, refused_options
from phichat.engine.remote.turn import Answering, AnsweringSeveral
from phichat.engine.reply import GrowingReply
from phichat.engine.sampling import GrowingSamples, one_by_one, seeds_of
from phichat.errors import EndpointError, ExtraNotInstalled, PhichatError
from phichat.events import ModelReady, SampleFinished
from phichat.messages import FinishReason, GenerationParams, Message, ModelInfo

_RETRIES = 3
_LONGEST_PAUSE_S = 30.0
"""A server that asks to wait longer is not waited for."""

_NAMES = {"repetition_penalty": "repeat_penalty", "max_completion_tokens": "max_tokens", "stream_options": ""}
"""How the user knows an option, "" where nobody has asked for it."""

_BYTES_PER_TOKEN = 4.0
"""Of most prose and code, until the server has counted a prompt."""

_CUT_BYTES_PER_TOKEN, _CUT_FROM_BYTES = 12.0, 8_000
"""A server that counts so few tokens in so much text has hardly read all of it."""

_COUNT_S = 2.0
"""How long a complete answer waits for the server to count it."""


class RemoteBackend:
    """A model of an endpoint.

    key: what proves who asks, "" for nothing; it is only ever sent to the endpoint. given: the names of the
    options that the user has set. pause_s: about how long it waits before it asks again for the first time.
    """

    def __init__(self, served: Served, key: str, given: Collection[str] = (), *, pause_s: float = 0.5) -> None:
        self._served, self._key, self._given = served, key, frozenset(given)
        self._scrub = Scrubber([key, *served.endpoint.headers.values()])
        self._pause_s = pause_s
        self._server: Server | None = None
        self._model = ServedModel("")
        self._refused: frozenset[str] = frozenset()
        self._bytes_per_token = _BYTES_PER_TOKEN
        self._takes_n = True

    @property
    def n_ctx(self) -> int:
        """As `Backend.n_ctx`; 0 when the server does not tell, and then nothing is ever left out for it."""
        return self._model.n_ctx

    def load(self, cancel: Cancel) -> Iterator[LoadEvent]:
        """As `Backend.load`: ask what the server says of the model.

        Raises ExtraNotInstalled, and EndpointError kinds when no model is named and the server has not just one.
        """
        if self._server is not None:
            return
        server = Server(self._served.endpoint, self._key)
        model = self._found(server, cancel)
        if model is None or cancel.is_set():
            server.close()
            return
        self._server, self._model = server, model
        self._served = replace(self._served, model=model.id)
        info = ModelInfo(self._served.name, n_ctx=model.n_ctx)
        yield ModelReady(info, "", 0, 0.0, tuple(self._notices()))

    def _found(self, server: Server, cancel: Cancel) -> ServedModel | None:
        """The model that is meant; None when cancelled."""
        wanted, models = self._served.model, []
        if wanted and self._served.endpoint.api_version:
            return ServedModel(wanted)  # Azure has deployments, and lists something else
        try:
            models = models_of(server, cancel, ABOUT_S)
        except Trouble as trouble:
            # What is wrong is told when it matters: not every server lists its models.
            if not wanted or trouble.kind is Kind.REFUSED:
                server.close()
                raise self._error(trouble, ABOUT_S) from None
        if cancel.is_set():
            return None
        if not wanted and len(models) != 1:
            server.close()
            name = self._served.endpoint.name
            some = ", ".join(model.id for model in models[:8])
            raise EndpointError(
                f"{name} has {len(models)} models" + (f": {some}" if some else ""),
                f"name one, as in `-m {name}/MODEL`, or set model under [endpoints.{name}]",
            )
        model = next((model for model in models if model.id == wanted or not wanted), ServedModel(wanted))
        if not model.n_ctx and model.owned_by == "llamacpp":
            model = replace(model, n_ctx=context_of_llama_server(server, cancel))
        return model

    def _notices(self) -> Iterator[str]:
        name = self._served.endpoint.name
        if theirs := [option for option in request.OF_THE_SERVER if option in self._given]:
            yield f"{name} was started with its own {_listed(theirs)}; what is set here has no effect on it."
        if self._model.owned_by not in ("vllm", "llamacpp") and (
            beyond := request.beyond_the_api(request.options(GenerationParams(), self._given))
        ):
            yield (
                f"The OpenAI API does not know {_listed(beyond)}: {name} is asked for it, "
                "but a server that does not know it either may say nothing."
            )

    def count(self, messages: Sequence[Message], cancel: Cancel) -> int:
        """As `Backend.count`, estimated by what the server has counted before; 0 while its context is not known.

        An estimate leaves turns out of a history, which is said; it never refuses a prompt: that is for the server.
        """
        if not self.n_ctx:
            return 0
        return min(int(_size(messages) / self._bytes_per_token), self.n_ctx - 1)

    def generate(
        self, messages: Sequence[Message], params: GenerationParams, cancel: Cancel, owner: str = ""
    ) -> Iterator[GenerationEvent]:
        """As `Backend.generate`. Raises EndpointError kinds, ModelNotInstalled and ContextOverflow."""
        reply = GrowingReply(self.n_ctx, params.seed or 0, 0.0)
        turn = Answering(self._served.endpoint.name, params, self._given)
        try:
            for said in self._replies(messages, turn, cancel):
                yield from reply.take(said)
        except (Trouble, ExtraNotInstalled) as why:
            yield replace(reply.finished(FinishReason.ERROR), notices=tuple(turn.notices))
            raise self._error(why, self._served.endpoint.timeout) if isinstance(why, Trouble) else why from None
        yield replace(reply.finished(), notices=tuple(turn.notices))

    def sample(
        self, messages: Sequence[Message], params: GenerationParams, number: int, cancel: Cancel
    ) -> Iterator[SampleEvent]:
        """As `Backend.sample`, in one request where the server takes the API's `n`. Raises what `generate` does."""
        seeds = seeds_of(params, number)
        missing = dict(enumerate(seeds))
        if number > 1 and self._takes_n:
            for event in self._together(messages, replace(params, seed=seeds[0]), seeds, cancel):
                if isinstance(event, SampleFinished):
                    del missing[event.number]
                yield event
            self._takes_n = cancel.is_set() or not missing
        yield from one_by_one(self.generate, messages, params, missing, cancel, number)

    def _together(
        self, messages: Sequence[Message], params: GenerationParams, seeds: Sequence[int], cancel: Cancel
    ) -> Iterator[SampleEvent]:
        """As many of the samples as the server gives for one request; none when it does not know of that."""
        replies = GrowingSamples(self.n_ctx, seeds, 0.0)
        turn = AnsweringSeveral(self._served.endpoint.name, params, self._given, len(seeds))
        trouble = None
        try:
            for said in self._replies(messages, turn, cancel):
                yield from _noted(replies.take(said), turn.notices)
        except Trouble as why:
            trouble = why
        for said in turn.complete():
            yield from _noted(replies.take(said), turn.notices)
        yield from _noted(replies.rest(FinishReason.ERROR if trouble else None), turn.notices)
        if trouble and (turn.has_begun or trouble.status not in (400, 422, 500, 501) or overflow(trouble)):
            raise self._error(trouble, self._served.endpoint.timeout)

    def _replies(
        self, messages: Sequence[Message], turn: Answering | AnsweringSeveral, cancel: Cancel
    ) -> Iterator[Said | Generated | OfSample]:
        """Asks again, as long as nothing was said, when the server is busy, lost or does not take an option."""
        attempt, streams = 0, True
        while True:
            try:
                yield from self._answer(messages, turn, cancel, streams=streams)
                return
            except Trouble as trouble:
                if turn.has_begun:
                    raise
                if refused := self._refused_by(trouble, turn):
                    self._refused |= refused
                    continue
                if trouble.kind is Kind.CUT and streams:
                    # Some servers fail after they have begun a stream, and can say why only where they do not stream.
                    streams = False
                    continue
                pause = _pause(trouble, attempt, self._pause_s)
                if pause is None:
                    raise
            attempt += 1
            wait([cancel], pause)  # type: ignore[list-item]
            if cancel.is_set():
                return

    def _answer(
        self, messages: Sequence[Message], turn: Answering | AnsweringSeveral, cancel: Cancel, *, streams: bool
    ) -> Iterator[Said | Generated | OfSample]:
        """What one request brings. Raises Trouble."""
        assert self._server is not None
        body = request.body(self._served.model, messages, turn.wanted, self._refused, streams=streams)
        patience_s = self._served.endpoint.timeout

        def silence_s() -> float:
            return min(_COUNT_S, patience_s) if turn.finish else patience_s

        try:
            with closing(self._server.complete(body, cancel, silence_s)) as documents:
                for document in documents:
                    yield from turn.take(document)
        except Trouble as trouble:
            # An answer that has said how it ends needs no more of the connection.
            if not turn.finish or trouble.kind not in (Kind.CUT, Kind.LOST, Kind.SILENT):
                yield from turn.rest()
                raise
        yield from turn.rest()
        if cancel.is_set():
            return
        if turn.usage and turn.usage.prompt_tokens:
            self._learn(_size(messages), turn.usage.prompt_tokens, turn)
        yield from turn.end()

    def _learn(self, size: int, tokens: int, turn: Answering | AnsweringSeveral) -> None:
        """The server has counted so many tokens in a prompt of that size, or in what it has left of it."""
        if size > _CUT_FROM_BYTES and size / tokens > _CUT_BYTES_PER_TOKEN:
            turn.notices.append(
                f"{self._served.endpoint.name} counts {tokens:,} tokens in a prompt of {size:,} bytes: it may have cut "
                "it to its context, which is set where the server is started."
            )
        else:
            self._bytes_per_token = size / tokens

    def _refused_by(self, trouble: Trouble, turn: Answering | AnsweringSeveral) -> frozenset[str]:
        """The options that the server has refused and that can be done without; the turn says which."""
        if overflow(trouble) is not None:
            return frozenset()
        sent = {*turn.wanted, "stream_options"}
        if "max_tokens" in self._refused & sent:
            sent.add("max_completion_tokens")
        refused = refused_options(trouble, sorted(sent - self._refused))
        named = {_NAMES.get(name, name) for name in refused}
        if lost := sorted(named - {"", *({"max_tokens"} & refused)}):
            words = " ".join(self._scrub(trouble.said).split())[:200]
            turn.notices.append(f"{self._served.endpoint.name} does not take {_listed(lost)} ({words}).")
        return refused

    def _error(self, trouble: Trouble, waited_s: float) -> PhichatError:
        return explain(trouble, self._served, self._key, waited_s)

    def unload(self) -> None:
        """As `Backend.unload`."""
        self.close()

    def close(self) -> None:
        """As `Backend.close`."""
        if self._server is not None:
            self._server.close()
            self._server = None


def _noted(events: Iterator[SampleEvent], notices: Sequence[str]) -> Iterator[SampleEvent]:
    for event in events:
        if isinstance(event, SampleFinished):
            event = replace(event, reply=replace(event.reply, notices=tuple(notices)))
        yield event


def _size(messages: Sequence[Message]) -> int:
    """Bytes of the texts, and about as many as the template puts around each."""
    return sum(len(message.text.encode("utf-8", "surrogatepass")) + 16 for message in messages)


def _pause(trouble: Trouble, attempt: int, first_s: float) -> float | None:
    """Seconds until it is worth asking again, None when it is not."""
    if not trouble.is_passing or attempt >= _RETRIES:
        return None
    jitter = random.uniform(0.5, 1.0)
    if trouble.retry_after is not None:
        # At least what was asked for; many who were told the same should not come back together.
        pause = trouble.retry_after * (1.5 - jitter / 2)
        return pause if pause <= _LONGEST_PAUSE_S else None
    return first_s * float(2**attempt) * jitter


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
