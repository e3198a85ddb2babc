"""The backend that asks a server."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from multiprocessing.connection import wait

from phichat.config.endpoints import EndpointModel
from phichat.engine.backend import CancelToken, GenerationEvent, LoadEvent, SampleEvent
from phichat.engine.ipc.protocol import GenerationFinished, OutputDelta, SampleOutput
from phichat.engine.parallel_sampling import SamplesAccumulator, derive_seeds, sample_sequentially
from phichat.engine.remote import request_body
from phichat.engine.remote.client import EndpointClient
from phichat.engine.remote.errors import (
    RemoteError,
    RemoteErrorKind,
    SecretRedactor,
    find_rejected_options,
    parse_context_overflow,
    to_user_error,
)
from phichat.engine.remote.models import MODEL_INFO_TIMEOUT_S, RemoteModel, fetch_llama_server_context, fetch_models
from phichat.engine.remote.response import CompletionParser, MultiCompletionParser
from phichat.engine.reply_accumulator import ReplyAccumulator
from phichat.errors import EndpointError, ExtraNotInstalled, PhichatError
from phichat.events import ModelReady, SampleFinished
from phichat.types import FinishReason, Message, ModelInfo, SamplingParams

_MAX_RETRIES = 3
_MAX_RETRY_DELAY_S = 30.0
"""A server that asks to wait longer is not waited for."""

_OPTION_NAMES = {"repetition_penalty": "repeat_penalty", "max_completion_tokens": "max_tokens", "stream_options": ""}
"""How the user knows an option, "" where nobody has asked for it."""

_DEFAULT_BYTES_PER_TOKEN = 4.0
"""Of most prose and code, until the server has counted a prompt."""

_TRUNCATION_BYTES_PER_TOKEN, _MIN_TRUNCATION_BYTES = 12.0, 8_000
"""A server that counts so few tokens in so much text has hardly read all of it."""

_USAGE_TIMEOUT_S = 2.0
"""How long a complete answer waits for the server to count it."""


class RemoteBackend:
    """A model of an endpoint.

    key: what proves who asks, "" for nothing; it is only ever sent to the endpoint. given: the names of the
    options that the user has set. pause_s: about how long it waits before it asks again for the first time.
    """

    def __init__(
        self,
        endpoint_model: EndpointModel,
        api_key: str,
        explicit_options: Collection[str] = (),
        *,
        retry_delay_s: float = 0.5,
    ) -> None:
        self._endpoint_model, self._api_key, self._explicit_options = (
            endpoint_model,
            api_key,
            frozenset(explicit_options),
        )
        self._redact = SecretRedactor([api_key, *endpoint_model.endpoint.headers.values()])
        self._retry_delay_s = retry_delay_s
        self._client: EndpointClient | None = None
        self._model = RemoteModel("")
        self._rejected_options: frozenset[str] = frozenset()
        self._bytes_per_token = _DEFAULT_BYTES_PER_TOKEN
        self._supports_n = True

    @property
    def n_ctx(self) -> int:
        """As `Backend.n_ctx`; 0 when the server does not tell, and then nothing is ever left out for it."""
        return self._model.n_ctx

    def load(self, cancel: CancelToken) -> Iterator[LoadEvent]:
        """As `Backend.load`: ask what the server says of the model.

        Raises ExtraNotInstalled, and EndpointError kinds when no model is named and the server has not just one.
        """
        if self._client is not None:
            return
        client = EndpointClient(self._endpoint_model.endpoint, self._api_key)
        model = self._resolve_model(client, cancel)
        if model is None or cancel.is_set():
            client.close()
            return
        self._client, self._model = client, model
        self._endpoint_model = replace(self._endpoint_model, model=model.id)
        info = ModelInfo(self._endpoint_model.name, n_ctx=model.n_ctx)
        yield ModelReady(info, "", 0, 0.0, tuple(self._build_notices()))

    def _resolve_model(self, client: EndpointClient, cancel: CancelToken) -> RemoteModel | None:
        """The model that is meant; None when cancelled."""
        requested_model, models = self._endpoint_model.model, []
        if requested_model and self._endpoint_model.endpoint.api_version:
            return RemoteModel(requested_model)  # Azure has deployments, and lists something else
        try:
            models = fetch_models(client, cancel, MODEL_INFO_TIMEOUT_S)
        except RemoteError as error:
            # What is wrong is told when it matters: not every server lists its models.
            if not requested_model or error.kind is RemoteErrorKind.CONNECTION_REFUSED:
                client.close()
                raise self._to_user_error(error, MODEL_INFO_TIMEOUT_S) from None
        if cancel.is_set():
            return None
        if not requested_model and len(models) != 1:
            client.close()
            name = self._endpoint_model.endpoint.name
            model_names = ", ".join(model.id for model in models[:8])
            raise EndpointError(
                f"{name} has {len(models)} models" + (f": {model_names}" if model_names else ""),
                f"Name one, as in `-m {name}/MODEL`, or set model under [endpoints.{name}]",
            )
        model = next(
            (model for model in models if model.id == requested_model or not requested_model),
            RemoteModel(requested_model),
        )
        if not model.n_ctx and model.owned_by == "llamacpp":
            model = replace(model, n_ctx=fetch_llama_server_context(client, cancel))
        return model

    def _build_notices(self) -> Iterator[str]:
        name = self._endpoint_model.endpoint.name
        if server_options := [
            option for option in request_body.SERVER_SIDE_OPTIONS if option in self._explicit_options
        ]:
            yield f"{name} was started with its own {_format_list(server_options)}; what is set here has no effect on it."
        if self._model.owned_by not in ("vllm", "llamacpp") and (
            vendor_options := request_body.list_vendor_options(
                request_body.build_options(SamplingParams(), self._explicit_options)
            )
        ):
            yield (
                f"The OpenAI API does not know {_format_list(vendor_options)}: {name} is asked for it, "
                "but a server that does not know it either may say nothing."
            )

    def count_tokens(self, messages: Sequence[Message], cancel: CancelToken) -> int:
        """As `Backend.count`, estimated by what the server has counted before; 0 while its context is not known.

        An estimate leaves turns out of a history, which is said; it never refuses a prompt: that is for the server.
        """
        if not self.n_ctx:
            return 0
        return min(int(_prompt_bytes(messages) / self._bytes_per_token), self.n_ctx - 1)

    def generate(
        self, messages: Sequence[Message], params: SamplingParams, cancel: CancelToken, conversation_id: str = ""
    ) -> Iterator[GenerationEvent]:
        """As `Backend.generate`. Raises EndpointError kinds, ModelNotInstalled and ContextOverflow."""
        accumulator = ReplyAccumulator(self.n_ctx, params.seed or 0, 0.0)
        parser = CompletionParser(self._endpoint_model.endpoint.name, params, self._explicit_options)
        try:
            for output in self._request_with_retries(messages, parser, cancel):
                yield from accumulator.feed(output)
        except (RemoteError, ExtraNotInstalled) as error:
            yield replace(accumulator.finish(FinishReason.ERROR), notices=tuple(parser.notices))
            raise (
                self._to_user_error(error, self._endpoint_model.endpoint.timeout)
                if isinstance(error, RemoteError)
                else error
            ) from None
        yield replace(accumulator.finish(), notices=tuple(parser.notices))

    def generate_n(
        self, messages: Sequence[Message], params: SamplingParams, n: int, cancel: CancelToken
    ) -> Iterator[SampleEvent]:
        """As `Backend.sample`, in one request where the server takes the API's `n`. Raises what `generate` does."""
        seeds = derive_seeds(params, n)
        missing_seeds = dict(enumerate(seeds))
        if n > 1 and self._supports_n:
            for event in self._generate_n_choices(messages, replace(params, seed=seeds[0]), seeds, cancel):
                if isinstance(event, SampleFinished):
                    del missing_seeds[event.index]
                yield event
            self._supports_n = cancel.is_set() or not missing_seeds
        yield from sample_sequentially(self.generate, messages, params, missing_seeds, cancel, n)

    def _generate_n_choices(
        self, messages: Sequence[Message], params: SamplingParams, seeds: Sequence[int], cancel: CancelToken
    ) -> Iterator[SampleEvent]:
        """As many of the samples as the server gives for one request; none when it does not know of that."""
        accumulator = SamplesAccumulator(self.n_ctx, seeds, 0.0)
        parser = MultiCompletionParser(self._endpoint_model.endpoint.name, params, self._explicit_options, len(seeds))
        error = None
        try:
            for output in self._request_with_retries(messages, parser, cancel):
                yield from _with_notices(accumulator.feed(output), parser.notices)
        except RemoteError as exc:
            error = exc
        for output in parser.emit_completed():
            yield from _with_notices(accumulator.feed(output), parser.notices)
        yield from _with_notices(accumulator.finish_remaining(FinishReason.ERROR if error else None), parser.notices)
        if error and (parser.has_output or error.status not in (400, 422, 500, 501) or parse_context_overflow(error)):
            raise self._to_user_error(error, self._endpoint_model.endpoint.timeout)

    def _request_with_retries(
        self, messages: Sequence[Message], parser: CompletionParser | MultiCompletionParser, cancel: CancelToken
    ) -> Iterator[OutputDelta | GenerationFinished | SampleOutput]:
        """Asks again, as long as nothing was said, when the server is busy, lost or does not take an option."""
        attempt, stream = 0, True
        while True:
            try:
                yield from self._request_once(messages, parser, cancel, stream=stream)
                return
            except RemoteError as error:
                if parser.has_output:
                    raise
                if rejected := self._find_droppable_options(error, parser):
                    self._rejected_options |= rejected
                    continue
                if error.kind is RemoteErrorKind.TRUNCATED and stream:
                    # Some servers fail after they have begun a stream, and can say why only where they do not stream.
                    stream = False
                    continue
                delay_s = _retry_delay(error, attempt, self._retry_delay_s)
                if delay_s is None:
                    raise
            attempt += 1
            wait([cancel], delay_s)  # type: ignore[list-item]
            if cancel.is_set():
                return

    def _request_once(
        self,
        messages: Sequence[Message],
        parser: CompletionParser | MultiCompletionParser,
        cancel: CancelToken,
        *,
        stream: bool,
    ) -> Iterator[OutputDelta | GenerationFinished | SampleOutput]:
        """What one request brings. Raises Trouble."""
        assert self._client is not None
        body = request_body.build_body(
            self._endpoint_model.model, messages, parser.api_options, self._rejected_options, stream=stream
        )
        idle_timeout_s = self._endpoint_model.endpoint.timeout

        def get_idle_timeout() -> float:
            return min(_USAGE_TIMEOUT_S, idle_timeout_s) if parser.finish_reason else idle_timeout_s

        try:
            with closing(self._client.stream_completion(body, cancel, get_idle_timeout)) as documents:
                for document in documents:
                    yield from parser.feed(document)
        except RemoteError as error:
            # An answer that has said how it ends needs no more of the connection.
            if not parser.finish_reason or error.kind not in (
                RemoteErrorKind.TRUNCATED,
                RemoteErrorKind.CONNECTION_LOST,
                RemoteErrorKind.TIMEOUT,
            ):
                yield from parser.flush()
                raise
        yield from parser.flush()
        if cancel.is_set():
            return
        if parser.usage and parser.usage.prompt_tokens:
            self._update_token_ratio(_prompt_bytes(messages), parser.usage.prompt_tokens, parser)
        yield from parser.emit_result()

    def _update_token_ratio(
        self, prompt_bytes: int, tokens: int, parser: CompletionParser | MultiCompletionParser
    ) -> None:
        """The server has counted so many tokens in a prompt of that size, or in what it has left of it."""
        if prompt_bytes > _MIN_TRUNCATION_BYTES and prompt_bytes / tokens > _TRUNCATION_BYTES_PER_TOKEN:
            parser.notices.append(
                f"{self._endpoint_model.endpoint.name} counts {tokens:,} tokens in a prompt of {prompt_bytes:,} bytes: it may have cut "
                "it to its context, which is set where the server is started."
            )
        else:
            self._bytes_per_token = prompt_bytes / tokens

    def _find_droppable_options(
        self, error: RemoteError, parser: CompletionParser | MultiCompletionParser
    ) -> frozenset[str]:
        """The options that the server has refused and that can be done without; the turn says which."""
        if parse_context_overflow(error) is not None:
            return frozenset()
        sent = {*parser.api_options, "stream_options"}
        if "max_tokens" in self._rejected_options & sent:
            sent.add("max_completion_tokens")
        rejected = find_rejected_options(error, sorted(sent - self._rejected_options))
        option_names = {_OPTION_NAMES.get(name, name) for name in rejected}
        if dropped_options := sorted(option_names - {"", *({"max_tokens"} & rejected)}):
            message = " ".join(self._redact(error.message).split())[:200]
            parser.notices.append(
                f"{self._endpoint_model.endpoint.name} does not take {_format_list(dropped_options)} ({message})."
            )
        return rejected

    def _to_user_error(self, error: RemoteError, idle_timeout_s: float) -> PhichatError:
        return to_user_error(error, self._endpoint_model, self._api_key, idle_timeout_s)

    def unload(self) -> None:
        """As `Backend.unload`."""
        self.close()

    def close(self) -> None:
        """As `Backend.close`."""
        if self._client is not None:
            self._client.close()
            self._client = None


def _with_notices(events: Iterator[SampleEvent], notices: Sequence[str]) -> Iterator[SampleEvent]:
    for event in events:
        if isinstance(event, SampleFinished):
            event = replace(event, reply=replace(event.reply, notices=tuple(notices)))
        yield event


def _prompt_bytes(messages: Sequence[Message]) -> int:
    """Bytes of the texts, and about as many as the template puts around each."""
    return sum(len(message.text.encode("utf-8", "surrogatepass")) + 16 for message in messages)


def _retry_delay(error: RemoteError, attempt: int, base_delay_s: float) -> float | None:
    """Seconds until it is worth asking again, None when it is not."""
    if not error.is_retryable or attempt >= _MAX_RETRIES:
        return None
    jitter = random.uniform(0.5, 1.0)
    if error.retry_after is not None:
        # At least what was asked for; many who were told the same should not come back together.
        delay_s = error.retry_after * (1.5 - jitter / 2)
        return delay_s if delay_s <= _MAX_RETRY_DELAY_S else None
    return base_delay_s * float(2**attempt) * jitter


def _format_list(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
