"""Backend for a model of an endpoint."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from multiprocessing.connection import wait

from phichat.config.endpoints import EndpointModel
from phichat.engine.backend import CancelToken, GenerationEvent, LoadEvent, SampleEvent
from phichat.engine.ipc.protocol import SampleOutput
from phichat.engine.parallel_sampling import SamplesAccumulator, derive_seeds, sample_sequentially
from phichat.engine.remote import errors, request_body
from phichat.engine.remote.client import MODEL_INFO_TIMEOUT_S, EndpointClient, RemoteModel
from phichat.engine.remote.errors import RemoteError, RemoteErrorKind, parse_context_overflow
from phichat.engine.remote.response import CompletionParser
from phichat.engine.reply_accumulator import ReplyAccumulator
from phichat.errors import EndpointError, PhichatError
from phichat.events import ModelReady, SampleFinished
from phichat.types import FinishReason, Message, ModelInfo, SamplingParams

_MAX_RETRIES = 3

_USER_OPTION_NAMES = {"repetition_penalty": "repeat_penalty", "max_completion_tokens": "max_tokens"}

_TRUNCATION_BYTES_PER_TOKEN, _MIN_TRUNCATION_BYTES = 12.0, 8_000
"""A server that counts so few tokens in so much text has hardly evaluated all of it."""

_USAGE_TIMEOUT_S = 2.0
"""How long a complete answer waits for the server's token counts."""

_CONNECTION_FAILURES = (RemoteErrorKind.TRUNCATED, RemoteErrorKind.CONNECTION_LOST, RemoteErrorKind.TIMEOUT)


class RemoteBackend:
    """Backend for a model of an endpoint.

    api_key: "" for none; it is sent to the endpoint and nowhere else. explicit_options: names of the options that
    the user has set. retry_delay_s: before the first retry; it doubles with each.
    """

    def __init__(
        self, model: EndpointModel, api_key: str, explicit_options: Collection[str] = (), *, retry_delay_s: float = 0.5
    ) -> None:
        self._endpoint, self._model_id, self._api_key = model.endpoint, model.model, api_key
        self._explicit_options, self._retry_delay_s = frozenset(explicit_options), retry_delay_s
        self._client = EndpointClient(self._endpoint, api_key)
        self._model: RemoteModel | None = None
        self._rejected_options: frozenset[str] = frozenset()
        self._bytes_per_token = 4.0  # of most prose and code, until the server has counted a prompt
        self._supports_n = True

    @property
    def n_ctx(self) -> int:
        """Context of the model in tokens; 0 when the server does not report it, and then no turn is left out."""
        return self._model.n_ctx if self._model else 0

    def load(self, cancel: CancelToken) -> Iterator[LoadEvent]:
        """Ask the server for its models, as `Backend.load`.

        Raises EndpointError kinds, also when no model is named and the server does not have exactly one.
        """
        if self._model is not None:
            return
        model = self._find_model(cancel)
        if cancel.is_set():
            return
        self._model, self._model_id = model, model.id
        info = ModelInfo(EndpointModel(self._endpoint, model.id).name, n_ctx=model.n_ctx)
        yield ModelReady(info, "", 0, 0.0, tuple(self._describe_ignored_options(model)))

    def _find_model(self, cancel: CancelToken) -> RemoteModel:
        """Return the requested model as the server describes it, anything when cancelled."""
        name, requested = self._endpoint.name, self._model_id
        if requested and self._endpoint.api_version:
            return RemoteModel(requested)  # Azure answers for deployments, and lists something else
        models: list[RemoteModel] = []
        try:
            models = self._client.fetch_models(cancel, MODEL_INFO_TIMEOUT_S)
        except RemoteError as error:
            # Not every server lists its models; a fault that matters comes up again with the first prompt.
            if not requested or error.kind is RemoteErrorKind.CONNECTION_REFUSED:
                raise self._to_user_error(error, MODEL_INFO_TIMEOUT_S) from None
        if not requested and len(models) != 1 and not cancel.is_set():
            ids = ": " + ", ".join(model.id for model in models[:8]) if models else ""
            next_step = f"Name one, as in `-m {name}/MODEL`, or set model under [endpoints.{name}]"
            raise EndpointError(f"{name} has {len(models)} models{ids}", next_step)
        model = next((one for one in models if one.id == requested or not requested), RemoteModel(requested))
        if not model.n_ctx and model.owned_by == "llamacpp":
            model = replace(model, n_ctx=self._client.fetch_llama_server_context(cancel))
        return model

    def _describe_ignored_options(self, model: RemoteModel) -> Iterator[str]:
        name = self._endpoint.name
        if ignored := [option for option in request_body.SERVER_SIDE_OPTIONS if option in self._explicit_options]:
            yield f"{name} uses its own {_format_list(ignored)}; your setting is ignored."
        explicit = request_body.build_options(SamplingParams(), self._explicit_options)
        vendor_options = [option for option in request_body.VENDOR_OPTIONS if option in explicit]
        if vendor_options and model.owned_by not in ("vllm", "llamacpp"):
            verb, pronoun = ("isn't", "it") if len(vendor_options) == 1 else ("aren't", "them")
            yield f"{_format_list(vendor_options)} {verb} part of the OpenAI API; {name} may silently ignore {pronoun}."

    def count_tokens(self, messages: Sequence[Message], cancel: CancelToken) -> int:
        """Estimate the tokens of a prompt from the server's earlier counts; 0 while its context is unknown.

        An estimate may leave turns out of a history, but never refuses a prompt: that is left to the server.
        """
        if not self.n_ctx:
            return 0
        return min(int(_prompt_bytes(messages) / self._bytes_per_token), self.n_ctx - 1)

    def generate(
        self, messages: Sequence[Message], params: SamplingParams, cancel: CancelToken, conversation_id: str = ""
    ) -> Iterator[GenerationEvent]:
        """Reply to messages, as `Backend.generate`. Raises EndpointError kinds, ModelNotInstalled, ContextOverflow."""
        accumulator = ReplyAccumulator(self.n_ctx, params.seed or 0, 0.0)
        parser = CompletionParser(self._endpoint.name, params, self._explicit_options)
        try:
            for sample in self._request_with_retries(messages, parser, cancel):
                yield from accumulator.feed(sample.output)
        except RemoteError as error:
            yield replace(accumulator.finish(FinishReason.ERROR), notices=tuple(parser.notices))
            raise self._to_user_error(error) from None
        yield replace(accumulator.finish(), notices=tuple(parser.notices))

    def generate_n(
        self, messages: Sequence[Message], params: SamplingParams, n: int, cancel: CancelToken
    ) -> Iterator[SampleEvent]:
        """Give n replies, as `Backend.generate_n`, in one request where the server supports the API's `n`."""
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
        """Give as many samples as the server returns for one request; none when it rejects `n`."""
        accumulator = SamplesAccumulator(self.n_ctx, seeds, 0.0)
        parser = CompletionParser(self._endpoint.name, params, self._explicit_options, len(seeds))
        error: RemoteError | None = None

        def generate_events() -> Iterator[SampleEvent]:
            nonlocal error
            try:
                for output in self._request_with_retries(messages, parser, cancel):
                    yield from accumulator.feed(output)
            except RemoteError as exc:
                error = exc
            for output in parser.emit_results(only_finished=True):
                yield from accumulator.feed(output)
            yield from accumulator.finish_remaining(FinishReason.ERROR if error else None)

        for event in generate_events():
            if isinstance(event, SampleFinished):
                event = replace(event, reply=replace(event.reply, notices=tuple(parser.notices)))
            yield event
        if error and (parser.has_output or error.status not in (400, 422, 500, 501) or parse_context_overflow(error)):
            raise self._to_user_error(error)

    def _request_with_retries(
        self, messages: Sequence[Message], parser: CompletionParser, cancel: CancelToken
    ) -> Iterator[SampleOutput]:
        """Send the request; again while nothing has arrived and the server is busy, lost, or rejects an option."""
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
        self, messages: Sequence[Message], parser: CompletionParser, cancel: CancelToken, *, stream: bool
    ) -> Iterator[SampleOutput]:
        rejected, timeout_s = self._rejected_options, self._endpoint.timeout
        body = request_body.build_body(self._model_id, messages, parser.api_options, rejected, stream=stream)
        completion = self._client.stream_completion(
            body, cancel, lambda: min(timeout_s, _USAGE_TIMEOUT_S) if parser.is_finished else timeout_s
        )
        try:
            with closing(completion) as documents:
                for document in documents:
                    yield from parser.feed(document)
        except RemoteError as error:
            # A finished answer needs nothing more of the connection.
            if not (parser.is_finished and error.kind in _CONNECTION_FAILURES):
                yield from parser.flush()
                raise
        yield from parser.flush()
        if cancel.is_set():
            return
        if parser.usage and parser.usage.prompt_tokens:
            self._update_token_ratio(_prompt_bytes(messages), parser.usage.prompt_tokens, parser)
        yield from parser.emit_results()

    def _update_token_ratio(self, prompt_bytes: int, tokens: int, parser: CompletionParser) -> None:
        """Learn from the server's count, unless it counts only what it has left of the prompt."""
        if prompt_bytes > _MIN_TRUNCATION_BYTES and prompt_bytes / tokens > _TRUNCATION_BYTES_PER_TOKEN:
            parser.notices.append(
                f"{self._endpoint.name} counts only {tokens:,} tokens in a prompt of {prompt_bytes:,} bytes: it may "
                "have truncated the prompt. Set its context when starting the server."
            )
        else:
            self._bytes_per_token = prompt_bytes / tokens

    def _find_droppable_options(self, error: RemoteError, parser: CompletionParser) -> frozenset[str]:
        """Return the options that the server rejected, with a notice: the request is sent again without them."""
        if parse_context_overflow(error) is not None:
            return frozenset()
        sent = {*parser.api_options, "stream_options"}
        if "max_tokens" in self._rejected_options & sent:
            sent.add("max_completion_tokens")
        rejected = errors.find_rejected_options(error, sorted(sent - self._rejected_options))
        names = {_USER_OPTION_NAMES.get(name, name) for name in rejected - {"stream_options"}}
        if "max_tokens" in rejected:
            names.discard("max_tokens")  # it is sent again by its newer name
        if names:
            message = " ".join(errors.redact_secrets(error.message, self._endpoint, self._api_key).split())[:200]
            verb = "it was" if len(names) == 1 else "they were"
            dropped = _format_list(sorted(names))
            parser.notices.append(f"{self._endpoint.name} rejected {dropped}, so {verb} left out ({message}).")
        return rejected

    def _to_user_error(self, error: RemoteError, idle_timeout_s: float | None = None) -> PhichatError:
        endpoint_model = EndpointModel(self._endpoint, self._model_id)
        return errors.to_user_error(error, endpoint_model, self._api_key, idle_timeout_s or self._endpoint.timeout)

    def close(self) -> None:
        """Close the connections; the backend can load again."""
        self._client.close()
        self._model = None

    unload = close


def _prompt_bytes(messages: Sequence[Message]) -> int:
    """Return the bytes of the texts, plus an estimate of what the chat template adds to each."""
    return sum(len(message.text.encode("utf-8", "surrogatepass")) + 16 for message in messages)


def _retry_delay(error: RemoteError, attempt: int, base_delay_s: float) -> float | None:
    """Return the seconds until a retry makes sense, None when it does not."""
    if not error.is_retryable or attempt >= _MAX_RETRIES:
        return None
    jitter = random.uniform(0.5, 1.0)
    if error.retry_after is not None:
        # At least what was asked for; jitter, because many clients may have the same answer.
        delay_s = error.retry_after * (1.5 - jitter / 2)
        return delay_s if delay_s <= 30.0 else None  # a user would not wait longer
    return base_delay_s * float(2**attempt) * jitter


def _format_list(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
