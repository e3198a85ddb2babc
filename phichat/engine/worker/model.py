"""A model and its context in memory: evaluation, the KV cache, sampling."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from phichat.engine.protocol import Failure, Load
from phichat.engine.worker.library import Log
from phichat.engine.worker.vocabulary import Vocabulary
from phichat.messages import GenerationParams

_TYPES = {
    name: f"GGML_TYPE_{name.upper()}"
    for name in ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
}
_HEARTBEAT_S = 0.5


class RequestFailed(Exception):
    """A request ends with a Failed reply."""

    def __init__(self, failure: Failure, message: str, tokens: int = 0) -> None:
        super().__init__(message)
        self.failure = failure
        self.message = message
        self.tokens = tokens


class Model:
    """The one model of an engine process.

    cancelled: asked between graph nodes, so that a long batch ends within milliseconds.
    alive: called now and then while a batch is computed.
    progress: called with the fraction of the tensors that are loaded.
    Raises RequestFailed.
    """

    def __init__(
        self,
        lib: Any,
        log: Log,
        request: Load,
        cancelled: Callable[[], bool],
        alive: Callable[[], None],
        progress: Callable[[float], None],
    ) -> None:
        self._lib, self._log = lib, log
        self._cancelled, self._alive = cancelled, alive
        self._last_beat = 0.0
        self.request = request
        self.n_batch = request.n_batch
        self.cached: list[int] = []
        """The tokens whose keys and values are in the KV cache, by position."""
        self._model = self._load(progress)
        self.vocabulary = Vocabulary(lib, self._model)
        # ctypes keeps no reference of its own to the callback.
        self._abort = lib.ggml_abort_callback(self._node_computed)
        self._context = self._create_context()
        self._memory = lib.llama_get_memory(self._context)
        if not self._memory:
            raise RequestFailed(Failure.LOAD, "the model keeps no context and cannot chat")
        # llama.cpp rounds up; what was asked for is what counts.
        self.n_ctx: int = min(request.n_ctx, lib.llama_n_ctx(self._context))
        self.n_ctx_train: int = lib.llama_model_n_ctx_train(self._model)
        self._token = (lib.llama_token * 1)()

    def _load(self, progress: Callable[[float], None]) -> Any:
        lib, request = self._lib, self.request
        shown = -1.0

        def loaded(fraction: float, _: object) -> bool:
            nonlocal shown
            if fraction >= shown + 0.01 or fraction == 1:
                shown = fraction
                progress(fraction)
            return not self._cancelled()

        params = lib.llama_model_default_params()
        params.n_gpu_layers = request.n_gpu_layers
        params.use_extra_bufts = request.extra_buffers
        params.progress_callback = lib.llama_progress_callback(loaded)
        if request.tensor_split:
            split = (ctypes.c_float * lib.llama_max_devices())(*request.tensor_split)
            params.tensor_split = split
        self._log.clear()
        model = lib.llama_model_load_from_file(request.path.encode("utf-8", "surrogateescape"), params)
        if not model:
            if self._cancelled():
                raise RequestFailed(Failure.CANCELLED, "loading was cancelled")
            raise self._failed("it gives no reason")
        if lib.llama_model_has_encoder(model) or not lib.llama_model_has_decoder(model):
            raise RequestFailed(Failure.LOAD, "the model is not a decoder and cannot chat")
        return model

    def _create_context(self) -> Any:
        lib, request = self._lib, self.request
        params = lib.llama_context_default_params()
        params.n_ctx = request.n_ctx
        params.n_batch = params.n_ubatch = request.n_batch
        params.n_threads = params.n_threads_batch = request.threads
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_AUTO
        params.type_k = getattr(lib, _TYPES[request.type_k])
        params.type_v = getattr(lib, _TYPES[request.type_v])
        params.abort_callback = self._abort
        params.no_perf = True
        self._log.clear()
        context = lib.llama_init_from_model(self._model, params)
        if not context:
            raise self._failed("its context cannot be made")
        return context

    def _failed(self, otherwise: str) -> RequestFailed:
        failure = Failure.MEMORY if self._log.tells_of_memory() else Failure.LOAD
        return RequestFailed(failure, self._log.explanation() or otherwise)

    def _node_computed(self, _: object) -> bool:
        now = monotonic()
        if now - self._last_beat > _HEARTBEAT_S:
            self._last_beat = now
            self._alive()
        return self._cancelled()

    @property
    def template(self) -> str | None:
        """The chat template that the file brings."""
        found = self._lib.llama_model_chat_template(self._model, None)
        return found.decode("utf-8", "replace") if found else None

    @property
    def architecture(self) -> str:
        buffer = ctypes.create_string_buffer(64)
        self._lib.llama_model_meta_val_str(self._model, b"general.architecture", buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    def keep_prefix(self, tokens: Sequence[int]) -> int:
        """Cut the KV cache down to what it has in common with tokens; how many that are.

        The last token is always evaluated again: its logits are needed. A memory that cannot be
        cut (recurrent layers) is cleared.
        """
        same = 0
        for cached, wanted in zip(self.cached, tokens[:-1], strict=False):
            if cached != wanted:
                break
            same += 1
        if same < len(self.cached) and not self._lib.llama_memory_seq_rm(self._memory, 0, same, -1):
            self.clear()
            return 0
        del self.cached[same:]
        return same

    def clear(self) -> None:
        """Forget everything that was evaluated."""
        self._lib.llama_memory_clear(self._memory, True)
        self.cached.clear()

    def evaluate(self, tokens: Sequence[int], evaluated: Callable[[int], None]) -> bool:
        """Append tokens to the context in batches; evaluated is told the size of the context after each.

        Returns False when it was cancelled; what was evaluated until then stays. Raises RequestFailed.
        """
        for start in range(0, len(tokens), self.n_batch):
            part = tokens[start : start + self.n_batch]
            if self._cancelled() or not self._decode((self._lib.llama_token * len(part))(*part), part):
                return False
            evaluated(len(self.cached))
        return True

    def append(self, token: int) -> bool:
        """Evaluate one generated token; as `evaluate`."""
        self._token[0] = token
        return self._decode(self._token, (token,))

    def _decode(self, array: Any, tokens: Sequence[int]) -> bool:
        result = self._lib.llama_decode(self._context, self._lib.llama_batch_get_one(array, len(tokens)))
        if result == 0:
            self.cached.extend(tokens)
            return True
        # Batches that were computed before the abort may or may not be kept: ask.
        kept = self._lib.llama_memory_seq_pos_max(self._memory, 0) + 1
        self.cached.extend(tokens)
        del self.cached[kept:]
        if result == 2:
            return False
        raise RequestFailed(Failure.DECODE, self._log.explanation() or f"llama_decode returned {result}")

    def synchronize(self) -> None:
        """Wait until everything submitted is computed: GPU backends return before."""
        self._lib.llama_synchronize(self._context)

    def sampler(self, params: GenerationParams, seed: int, prompt: Sequence[int]) -> Sampler:
        """A chain for one reply; the repeat penalty knows the end of the prompt."""
        return Sampler(self._lib, self._context, self.vocabulary.size, params, seed, prompt)


class Sampler:
    """llama.cpp's sampler chain, in the order of its own command line. Close it after use."""

    def __init__(
        self, lib: Any, context: Any, vocabulary_size: int, params: GenerationParams, seed: int, prompt: Sequence[int]
    ) -> None:
        self._lib, self._context = lib, context
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        if params.repeat_penalty != 1.0 and params.repeat_last_n != 0:
            self._add(
                lib.llama_sampler_init_penalties(vocabulary_size, params.repeat_last_n, params.repeat_penalty, 0.0, 0.0)
            )
            for token in prompt[-params.repeat_last_n :]:
                lib.llama_sampler_accept(self._chain, token)
        if params.temperature <= 0:
            self._add(lib.llama_sampler_init_greedy())
            return
        self._add(lib.llama_sampler_init_top_k(params.top_k))
        self._add(lib.llama_sampler_init_top_p(params.top_p, 1))
        self._add(lib.llama_sampler_init_min_p(params.min_p, 1))
        self._add(lib.llama_sampler_init_temp(params.temperature))
        self._add(lib.llama_sampler_init_dist(seed))

    def _add(self, sampler: Any) -> None:
        self._lib.llama_sampler_chain_add(self._chain, sampler)

    def next(self) -> int:
        """The next token, from the logits of the last one evaluated."""
        return int(self._lib.llama_sampler_sample(self._chain, self._context, -1))

    def close(self) -> None:
        self._lib.llama_sampler_free(self._chain)
