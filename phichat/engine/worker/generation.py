"""One reply: the prompt evaluated, and each token after it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from time import monotonic

from phichat.engine.ipc.protocol import ErrorCode, Generate, GenerationFinished, PrefillProgress
from phichat.engine.worker.detokenizer import ReplyGenerator
from phichat.engine.worker.kv_cache.sequences import DecodeStatus, RequestFailed
from phichat.engine.worker.kv_cache.sequences import Sequence as KV
from phichat.engine.worker.model import Model
from phichat.engine.worker.ngram_speculation import SpeculativeBatch
from phichat.engine.worker.prompt import TokenizedPrompt
from phichat.engine.worker.scheduler import PendingToken, RequestState, RequestSteps
from phichat.types import FinishReason, Timings, Usage


def prefill(
    sequence: KV,
    tokens: Sequence[int],
    job: RequestState,
    evict: Callable[[], bool],
    batch_size: Callable[[], int],
    on_progress: Callable[[int], None] | None = None,
) -> Generator[bool, None, DecodeStatus]:
    """Evaluate, a batch in each step, until the sequence holds all of tokens. report: told how many it holds."""
    while (cached := len(sequence.cached_tokens)) < len(tokens):
        if job.cancel_event.is_set():
            return DecodeStatus.CANCELLED
        match sequence.decode(tokens[cached : cached + batch_size()]):
            case DecodeStatus.DONE:
                if on_progress:
                    on_progress(len(sequence.cached_tokens))
                if len(sequence.cached_tokens) < len(tokens):
                    yield True
            case DecodeStatus.CANCELLED:
                return DecodeStatus.CANCELLED
            case DecodeStatus.CACHE_FULL:
                if not evict():
                    return DecodeStatus.CACHE_FULL
    return DecodeStatus.DONE


def generate(
    model: Model,
    prompt: TokenizedPrompt,
    request: Generate,
    stop_strings: Sequence[str],
    job: RequestState,
    evict: Callable[[], bool],
    batch_size: Callable[[], int],
) -> RequestSteps:
    """Answer a prompt, a batch or a token in each step.

    stops: the template's stop strings; those of the request are added. make_room: frees cells of the KV
    cache, False when there are none to have. batch: tokens to evaluate at once.
    Raises RequestFailed when the prompt leaves no room in the context or cannot be evaluated.
    """
    params, tokens, total = request.params, prompt.tokens, len(prompt.tokens)
    started, cached, restore_s = job.received_at, 0, 0.0
    if total >= model.n_ctx:
        raise RequestFailed(ErrorCode.OVERFLOW, "the prompt does not fit the context", total)

    def build_cancelled() -> GenerationFinished:
        prefill_s = monotonic() - started - restore_s - job.waited_s
        timings = Timings(prompt_s=prefill_s, restore_s=restore_s, wait_s=job.waited_s)
        return GenerationFinished(FinishReason.CANCELLED, Usage(total, cached, 0), timings)

    while (sequence := model.kv_persistence.acquire(tokens, job.client.is_connected)) is None:
        if job.cancel_event.is_set():
            return build_cancelled()
        yield False
    job.sequences = (sequence,)

    def evaluate_tokens(
        tokens: Sequence[int], on_progress: Callable[[int], None] | None = None
    ) -> Generator[bool, None, bool]:
        """Until the sequence holds all of tokens; False when cancelled."""
        while (
            status := (yield from prefill(sequence, tokens, job, evict, batch_size, on_progress))
        ) is DecodeStatus.CACHE_FULL:
            yield False
        return status is DecodeStatus.DONE

    with contextlib.ExitStack() as cleanup:
        cleanup.callback(model.sequence_pool.release, sequence)
        cleanup.callback(model.kv_persistence.mark_dirty, sequence)
        restore_started = monotonic()
        model.kv_persistence.restore_for(sequence, tokens, request.conversation_id, job.cancel_event.is_set)
        prefill_started = monotonic()
        restore_s, waited_s = prefill_started - restore_started, job.waited_s
        cached = len(sequence.cached_tokens)
        job.send(PrefillProgress(cached, total, cached))
        complete = yield from evaluate_tokens(tokens, lambda done: job.send(PrefillProgress(done, total, cached)))
        model.synchronize()
        prefill_ended = monotonic()
        model.kv_persistence.record_prefill(
            prefill_ended - prefill_started - (job.waited_s - waited_s), len(sequence.cached_tokens) - cached
        )
        waited_s = job.waited_s
        if not complete:
            return build_cancelled()
        generator = ReplyGenerator(model, prompt, params, request.seed, stop_strings, job.send)
        cleanup.callback(generator.close)
        speculation = SpeculativeBatch(model.batch_costs, sequence, generator.tokens)
        cleanup.callback(speculation.rollback)
        logits_index: int | None = -1
        while (reason := generator.sample_next(-1 if logits_index is None else logits_index)) is None:
            if speculation.accept_token():
                logits_index = speculation.logits_index
                continue
            if speculation.propose(
                min(model.n_ctx - len(generator.tokens), batch_size() - 1, generator.remaining_tokens)
            ):
                yield True
                if speculation.evaluate_draft():
                    logits_index = speculation.logits_index
                    continue
            logits_index = yield PendingToken(sequence, generator.tokens[-1], len(generator.tokens) - 1)
            if logits_index is None and not (yield from evaluate_tokens(generator.tokens)):
                reason = FinishReason.CANCELLED
                break
    return generator.build_result(reason, cached, started, prefill_ended, restore_s, waited_s)
