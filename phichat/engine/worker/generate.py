"""One reply: the prompt evaluated, and each token after it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from time import monotonic

from phichat.engine.protocol import Evaluating, Failure, Generate, Generated
from phichat.engine.worker.draft import Ahead
from phichat.engine.worker.model import Model
from phichat.engine.worker.prompt import Prompt
from phichat.engine.worker.schedule import Due, Job, Steps
from phichat.engine.worker.sequences import Decoded, RequestFailed
from phichat.engine.worker.sequences import Sequence as KV
from phichat.engine.worker.voice import Writer
from phichat.messages import FinishReason, Timings, Usage


def fill(
    sequence: KV,
    tokens: Sequence[int],
    job: Job,
    make_room: Callable[[], bool],
    batch: Callable[[], int],
    report: Callable[[int], None] | None = None,
) -> Generator[bool, None, Decoded]:
    """Evaluate, a batch in each step, until the sequence holds all of tokens. report: told how many it holds."""
    while (done := len(sequence.cached)) < len(tokens):
        if job.cancelled.is_set():
            return Decoded.CANCELLED
        match sequence.decode(tokens[done : done + batch()]):
            case Decoded.DONE:
                if report:
                    report(len(sequence.cached))
                if len(sequence.cached) < len(tokens):
                    yield True
            case Decoded.CANCELLED:
                return Decoded.CANCELLED
            case Decoded.NO_ROOM:
                if not make_room():
                    return Decoded.NO_ROOM
    return Decoded.DONE


def reply(
    model: Model,
    prompt: Prompt,
    request: Generate,
    stops: Sequence[str],
    job: Job,
    make_room: Callable[[], bool],
    batch: Callable[[], int],
) -> Steps:
    """Answer a prompt, a batch or a token in each step.

    stops: the template's stop strings; those of the request are added. make_room: frees cells of the KV
    cache, False when there are none to have. batch: tokens to evaluate at once.
    Raises RequestFailed when the prompt leaves no room in the context or cannot be evaluated.
    """
    params, tokens, total = request.params, prompt.tokens, len(prompt.tokens)
    started, cached, restore_s = job.received_at, 0, 0.0
    if total >= model.n_ctx:
        raise RequestFailed(Failure.OVERFLOW, "the prompt does not fit the context", total)

    def cancelled() -> Generated:
        read_s = monotonic() - started - restore_s - job.waited_s
        timings = Timings(prompt_s=read_s, restore_s=restore_s, wait_s=job.waited_s)
        return Generated(FinishReason.CANCELLED, Usage(total, cached, 0), timings)

    while (sequence := model.states.take(tokens, job.client.may_go_on)) is None:
        if job.cancelled.is_set():
            return cancelled()
        yield False
    job.sequences = (sequence,)

    def evaluate(tokens: Sequence[int], report: Callable[[int], None] | None = None) -> Generator[bool, None, bool]:
        """Until the sequence holds all of tokens; False when cancelled."""
        while (end := (yield from fill(sequence, tokens, job, make_room, batch, report))) is Decoded.NO_ROOM:
            yield False
        return end is Decoded.DONE

    with contextlib.ExitStack() as cleaning:
        cleaning.callback(model.sequences.release, sequence)
        cleaning.callback(model.states.ended, sequence)
        restoring = monotonic()
        model.states.begin(sequence, tokens, request.owner, job.cancelled.is_set)
        reading = monotonic()
        restore_s, waited_s = reading - restoring, job.waited_s
        cached = len(sequence.cached)
        job.send(Evaluating(cached, total, cached))
        complete = yield from evaluate(tokens, lambda done: job.send(Evaluating(done, total, cached)))
        model.synchronize()
        evaluated = monotonic()
        model.states.learn(evaluated - reading - (job.waited_s - waited_s), len(sequence.cached) - cached)
        waited_s = job.waited_s
        if not complete:
            return cancelled()
        writer = Writer(model, prompt, params, request.seed, stops, job.send)
        cleaning.callback(writer.close)
        ahead = Ahead(model.batch_costs, sequence, writer.tokens)
        cleaning.callback(ahead.take_back)
        at: int | None = -1
        while (reason := writer.next(-1 if at is None else at)) is None:
            if ahead.has_come_true():
                at = ahead.place
                continue
            if ahead.guess(min(model.n_ctx - len(writer.tokens), batch() - 1, writer.left)):
                yield True
                if ahead.evaluate():
                    at = ahead.place
                    continue
            at = yield Due(sequence, writer.tokens[-1], len(writer.tokens) - 1)
            if at is None and not (yield from evaluate(writer.tokens)):
                reason = FinishReason.CANCELLED
                break
    return writer.generated(reason, cached, started, evaluated, restore_s, waited_s)
