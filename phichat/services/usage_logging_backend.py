"""A backend that records when its model was used and how fast it was."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from phichat.engine.backend import Backend, CancelToken, GenerationEvent, LoadEvent, SampleEvent
from phichat.events import ModelReady, TurnFinished
from phichat.models.local.local_models import SelectedModel
from phichat.models.local.usage_log import GenerationSpeed, UsageLog
from phichat.types import Message, SamplingParams

_MIN_TOKENS_FOR_SPEED = 16
"""A shorter reply does not show the speed of a model."""


class UsageLoggingBackend:
    """Backend that logs the use and the speed of its model, and adds a notice on how the model was chosen.

    explicit: the user named the model, so it becomes the default of later runs.
    """

    def __init__(self, backend: Backend, selected: SelectedModel, usage_log: UsageLog, *, explicit: bool) -> None:
        self._backend, self._selected, self._usage_log = backend, selected, usage_log
        self._explicit, self._n_gpu_layers = explicit, 0

    @property
    def n_ctx(self) -> int:
        return self._backend.n_ctx

    def load(self, cancel: CancelToken) -> Iterator[LoadEvent]:
        for event in self._backend.load(cancel):
            if isinstance(event, ModelReady):
                self._n_gpu_layers = event.model.n_gpu_layers
                self._usage_log.note(self._selected.model.path, is_explicit=self._explicit)
                if self._selected.notice:
                    event = replace(event, notices=(self._selected.notice, *event.notices))
            yield event

    def count_tokens(self, messages: Sequence[Message], cancel: CancelToken) -> int:
        return self._backend.count_tokens(messages, cancel)

    def generate(
        self, messages: Sequence[Message], params: SamplingParams, cancel: CancelToken, conversation_id: str = ""
    ) -> Iterator[GenerationEvent]:
        for event in self._backend.generate(messages, params, cancel, conversation_id):
            if isinstance(event, TurnFinished) and event.usage.completion_tokens >= _MIN_TOKENS_FOR_SPEED:
                speed = GenerationSpeed(event.timings.tokens_per_second, self._n_gpu_layers, "ask")
                self._usage_log.record_speed(self._selected.model.path, speed)
            yield event

    def generate_n(
        self, messages: Sequence[Message], params: SamplingParams, n: int, cancel: CancelToken
    ) -> Iterator[SampleEvent]:
        return self._backend.generate_n(messages, params, n, cancel)

    def unload(self) -> None:
        self._backend.unload()

    def close(self) -> None:
        self._backend.close()
