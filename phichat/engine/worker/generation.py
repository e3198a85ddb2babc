"""Generation of one reply: prefill of the prompt, then a token per step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from time import monotonic

from phichat.engine.ipc.protocol import ErrorCode, Generate, GenerationFinished, PrefillProgress
from phichat.engine.worker.detokenizer import ReplyGenerator
from phichat.engine.worker.errors import RequestFailed
from phichat.engine.worker.kv_cache.sequences import DecodeStatus, KvSequence
from phichat.engine.worker.model import Model
from phichat.engine.worker.ngram_speculation import SpeculativeBatch
from phichat.engine.worker.prompt import TokenizedPrompt
from phichat.engine.worker.scheduler import Job, JobSteps, PendingToken, Scheduler
from phichat.types import FinishReason, SamplingParams, Timings, Usage

_CONTENDED_BATCH_DIVISOR = 4  # the fraction of a batch that is evaluated per step while other jobs wait


@dataclass(frozen=True, slots=True)
class GenerationContext:
    """Inputs of a generation. params: of the request, with the template's stop strings too."""

    model: Model
    scheduler: Scheduler
    job: Job
    prompt: TokenizedPrompt
    params: SamplingParams

    @property
    def batch_size(self) -> int:
        """Tokens to evaluate in one step."""
        size = self.model.n_batch
        return max(1, size // _CONTENDED_BATCH_DIVISOR) if self.scheduler.has_contention(self.job) else size

    def evict(self) -> bool:
        """Free cells of the KV cache; False when there are none to free for this job."""
        return self.scheduler.free_cells(self.job, self.model.sequence_pool)

    def acquire_sequence(self) -> Generator[bool, None, KvSequence | None]:
        """Wait for an idle sequence; None when the job was cancelled.

        Raises RequestFailed when the prompt leaves no space for a reply in the context.
        """
        tokens = self.prompt.tokens
        if len(tokens) >= self.model.n_ctx:
            raise RequestFailed(ErrorCode.OVERFLOW, "the prompt does not fit the context", len(tokens))
        while (sequence := self.model.kv_persistence.acquire(tokens, self.job.client.is_connected)) is None:
            if self.job.cancel_event.is_set():
                return None
            yield False
        return sequence

    def try_prefill(
        self, sequence: KvSequence, tokens: Sequence[int], on_progress: Callable[[int], None] | None = None
    ) -> Generator[bool, None, DecodeStatus]:
        """Evaluate a batch per step until the sequence holds all tokens. on_progress: called with how many it holds."""
        while (cached := len(sequence.cached_tokens)) < len(tokens):
            if self.job.cancel_event.is_set():
                return DecodeStatus.CANCELLED
            status = sequence.decode(tokens[cached : cached + self.batch_size])
            if status is DecodeStatus.DONE:
                if on_progress:
                    on_progress(len(sequence.cached_tokens))
                if len(sequence.cached_tokens) < len(tokens):
                    yield True
            elif status is DecodeStatus.CANCELLED or not self.evict():
                return status
        return DecodeStatus.DONE

    def prefill(
        self, sequence: KvSequence, tokens: Sequence[int], on_progress: Callable[[int], None] | None = None
    ) -> Generator[bool, None, bool]:
        """Like `try_prefill`, but wait for other jobs while the cache is full; False when cancelled."""
        while (status := (yield from self.try_prefill(sequence, tokens, on_progress))) is DecodeStatus.CACHE_FULL:
            yield False
        return status is DecodeStatus.DONE


def generate(context: GenerationContext, request: Generate) -> JobSteps:
    """Answer a prompt, a batch or a token in each step. Raises RequestFailed."""
    model, job, prompt = context.model, context.job, context.prompt
    tokens, total, kv_persistence = prompt.tokens, len(prompt.tokens), model.kv_persistence
    started, cached, restore_s = job.received_at, 0, 0.0

    def report_progress(done: int) -> None:
        job.send(PrefillProgress(done, total, cached))

    def build_cancelled() -> GenerationFinished:
        prefill_s = monotonic() - started - restore_s - job.waited_s
        timings = Timings(prompt_s=prefill_s, restore_s=restore_s, wait_s=job.waited_s)
        return GenerationFinished(FinishReason.CANCELLED, Usage(total, cached, 0), timings)

    if (sequence := (yield from context.acquire_sequence())) is None:
        return build_cancelled()
    job.sequences = (sequence,)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(model.sequence_pool.release, sequence)
        cleanup.callback(kv_persistence.mark_dirty, sequence)
        restore_started = monotonic()
        kv_persistence.restore_for(sequence, tokens, request.conversation_id, job.cancel_event.is_set)
        prefill_started = monotonic()
        restore_s, waited_s = prefill_started - restore_started, job.waited_s
        cached = len(sequence.cached_tokens)
        report_progress(cached)
        is_complete = yield from context.prefill(sequence, tokens, report_progress)
        model.synchronize()
        prefill_ended = monotonic()
        prefill_s = prefill_ended - prefill_started - (job.waited_s - waited_s)
        kv_persistence.record_prefill(prefill_s, len(sequence.cached_tokens) - cached)
        waited_s = job.waited_s
        if not is_complete:
            return build_cancelled()
        generator = ReplyGenerator(model, prompt, context.params, request.seed, job.send)
        cleanup.callback(generator.close)
        speculation = SpeculativeBatch(model.batch_costs, sequence, generator.tokens)
        cleanup.callback(speculation.rollback)
        while (reason := generator.sample_next(speculation.logits_index)) is None:
            if speculation.accept_token():
                continue
            max_draft = min(model.n_ctx - len(generator.tokens), context.batch_size - 1, generator.remaining_tokens)
            if speculation.propose(max_draft):
                yield True
                if speculation.evaluate_draft():
                    continue
            logits_index = yield PendingToken(sequence, generator.tokens[-1], len(generator.tokens) - 1)
            if logits_index is None and not (yield from context.prefill(sequence, generator.tokens)):
                reason = FinishReason.CANCELLED
                break
            speculation.logits_index = -1 if logits_index is None else logits_index
    return generator.build_result(reason, cached, started, prefill_ended, restore_s, waited_s)
