"""A loaded model with its context, and the sampler chain."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from phichat.engine.ipc.protocol import ErrorCode, LoadModel
from phichat.engine.worker.errors import RequestFailed
from phichat.engine.worker.kv_cache.persistence import KvPersistence
from phichat.engine.worker.kv_cache.sequences import SequencePool
from phichat.engine.worker.llama_lib import LlamaLog
from phichat.engine.worker.tokenizer import Tokenizer
from phichat.types import SamplingParams


class Model:
    """Model of an engine process, with its context. Sizes in tokens.

    should_abort: called between graph nodes, so that a cancel ends a long batch within milliseconds.
    on_progress: called with the fraction of the tensors that are loaded.
    batch_costs: for speculation; empty where the memory cannot drop rejected tokens.
    Raises RequestFailed.
    """

    def __init__(
        self,
        lib: Any,
        log: LlamaLog,
        request: LoadModel,
        should_abort: Callable[[], bool],
        on_progress: Callable[[float], None],
    ) -> None:
        self.lib, self._log, self.request, self.n_batch = lib, log, request, request.n_batch
        self._model = self._load_model(should_abort, on_progress)
        self.tokenizer = Tokenizer(lib, self._model)
        # ctypes keeps no reference of its own to the callback.
        self._abort_callback = lib.ggml_abort_callback(lambda _: should_abort())
        self.context = self._create_context()
        if not lib.llama_get_memory(self.context):
            raise RequestFailed(ErrorCode.LOAD, "the model has no memory of its context and cannot chat")
        recurrent = lib.llama_model_is_recurrent(self._model) or lib.llama_model_is_hybrid(self._model)
        self.batch_costs = () if recurrent else request.batch_costs
        n_swa, n_seq_max = lib.llama_model_n_swa(self._model), request.n_seq_max
        self.sequence_pool = SequencePool(lib, log, self.context, n_seq_max, can_truncate=not recurrent, n_swa=n_swa)
        self.kv_persistence = KvPersistence(lib, self.context, self.sequence_pool, request)
        # llama.cpp rounds n_ctx up.
        self.n_ctx: int = min(request.n_ctx, lib.llama_n_ctx(self.context))
        self.n_ctx_train: int = lib.llama_model_n_ctx_train(self._model)

    def _load_model(self, should_abort: Callable[[], bool], on_progress: Callable[[float], None]) -> Any:
        lib, request, reported = self.lib, self.request, -1.0

        def report_progress(fraction: float, _: object) -> bool:
            nonlocal reported
            if fraction >= reported + 0.01 or fraction == 1:
                reported = fraction
                on_progress(fraction)
            return not should_abort()

        params = lib.llama_model_default_params()
        params.n_gpu_layers = request.n_gpu_layers
        params.use_extra_bufts = request.extra_buffers
        params.progress_callback = lib.llama_progress_callback(report_progress)
        if request.tensor_split:
            params.tensor_split = (ctypes.c_float * lib.llama_max_devices())(*request.tensor_split)
        self._log.clear()
        model = lib.llama_model_load_from_file(request.path.encode("utf-8", "surrogateescape"), params)
        if not model:
            if should_abort():
                raise RequestFailed(ErrorCode.CANCELLED, "loading was cancelled")
            raise self._load_error("llama.cpp gave no reason")
        if lib.llama_model_has_encoder(model) or not lib.llama_model_has_decoder(model):
            raise RequestFailed(ErrorCode.LOAD, "the model is not a decoder and cannot chat")
        return model

    def _create_context(self) -> Any:
        lib, request = self.lib, self.request
        params = lib.llama_context_default_params()
        params.n_ctx = request.n_ctx
        params.n_batch = params.n_ubatch = request.n_batch
        params.n_threads, params.n_threads_batch = request.threads, request.prompt_threads or request.threads
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_AUTO
        params.type_k = getattr(lib, f"GGML_TYPE_{request.type_k.upper()}")
        params.type_v = getattr(lib, f"GGML_TYPE_{request.type_v.upper()}")
        params.abort_callback = self._abort_callback
        params.no_perf = True
        # All sequences share the cells, so that one alone has the whole context.
        params.n_seq_max, params.kv_unified = request.n_seq_max, True
        self._log.clear()
        context = lib.llama_init_from_model(self._model, params)
        if not context:
            raise self._load_error("its context cannot be created")
        return context

    def _load_error(self, default_message: str) -> RequestFailed:
        code = ErrorCode.MEMORY if self._log.mentions_out_of_memory() else ErrorCode.LOAD
        return RequestFailed(code, self._log.last_error() or default_message)

    @property
    def chat_template(self) -> str | None:
        """Chat template in the file, None without one."""
        source = self.lib.llama_model_chat_template(self._model, None)
        return source.decode("utf-8", "replace") if source else None

    @property
    def architecture(self) -> str:
        buffer = ctypes.create_string_buffer(64)
        self.lib.llama_model_meta_val_str(self._model, b"general.architecture", buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    def set_threads(self, n_threads: int, n_prompt_threads: int) -> None:
        """Set the threads that compute single tokens, and those that compute larger batches."""
        self.lib.llama_set_n_threads(self.context, n_threads, n_prompt_threads)

    def synchronize(self) -> None:
        """Wait until all submitted batches are computed: GPU backends return before."""
        self.lib.llama_synchronize(self.context)

    def get_logits(self, index: int) -> bytes:
        """Return the logits, float32 each, at an index of the last batch."""
        return ctypes.string_at(self.lib.llama_get_logits_ith(self.context, index), 4 * self.tokenizer.size)


class Sampler:
    """llama.cpp's sampler chain for one reply, in the order of its own command line. Close it after use.

    prompt_tokens: the repeat penalty counts the last of them.
    """

    def __init__(self, model: Model, params: SamplingParams, seed: int, prompt_tokens: Sequence[int]) -> None:
        lib = self._lib = model.lib
        self._context = model.context
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        penalty, last_n = params.repeat_penalty, params.repeat_last_n
        if penalty != 1.0 and last_n != 0:
            penalties = lib.llama_sampler_init_penalties(model.tokenizer.size, last_n, penalty, 0.0, 0.0)
            lib.llama_sampler_chain_add(self._chain, penalties)
            for token in prompt_tokens[-last_n:]:
                lib.llama_sampler_accept(self._chain, token)
        if params.temperature <= 0:
            samplers = [lib.llama_sampler_init_greedy()]
        else:
            samplers = [
                lib.llama_sampler_init_top_k(params.top_k),
                lib.llama_sampler_init_top_p(params.top_p, 1),
                lib.llama_sampler_init_min_p(params.min_p, 1),
                lib.llama_sampler_init_temp(params.temperature),
                lib.llama_sampler_init_dist(seed),
            ]
        for sampler in samplers:
            lib.llama_sampler_chain_add(self._chain, sampler)

    def sample_token(self, logits_index: int = -1) -> int:
        """Sample a token from the logits at an index of the last batch; -1 is the batch's last."""
        return int(self._lib.llama_sampler_sample(self._chain, self._context, logits_index))

    def close(self) -> None:
        self._lib.llama_sampler_free(self._chain)
