"""`phichat bench`: the speed of a model on this machine, and tuning."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.interrupt import cancel_on_sigint
from phichat.cli.support.options import create_context, engine_options, json_option
from phichat.cli.support.output import Output
from phichat.errors import UsageError

if TYPE_CHECKING:
    from phichat.engine.autotune.tuner import TuningReport
    from phichat.engine.ipc.protocol import BenchmarkResult, PrefillProgress
    from phichat.engine.local import LocalBackend
    from phichat.events import ModelLoading, ModelReady, ModelVerifying
    from phichat.services.app_context import AppContext

_TUNING_CTX_SIZE = 1024
_MAX_BACKGROUND_LOAD = 0.15
"""Share of all processors: above it, the measured optimum may not hold on an idle machine."""


@click.command(context_settings={"show_default": True})
@click.argument("model", required=False)
@click.option("-p", "--prompt-tokens", type=click.IntRange(1), default=512, help="Prompt length.")
@click.option("-n", "--generated-tokens", type=click.IntRange(1), default=128, help="Reply length.")
@click.option("-r", "--repeats", type=click.IntRange(1), default=5, help="Number of runs (after one warm-up).")
@click.option("--tune", is_flag=True, help="Find the best number of threads and use it from now on.")
@json_option
@engine_options
def bench(
    model: str | None, prompt_tokens: int, generated_tokens: int, repeats: int, tune: bool, as_json: bool, **flags: Any
) -> int:
    """Measure the speed of prompt processing and generation with MODEL.

    Generation reads every weight once per token, so memory bandwidth limits its speed. --tune tries thread counts
    and spin times and remembers the fastest for models of this size.
    """
    if flags["ctx_size"] is None:
        flags["ctx_size"] = _TUNING_CTX_SIZE if tune else max(prompt_tokens, generated_tokens)
    context = create_context(model=model, **flags)
    if tune and context.config.engine.threads:
        raise UsageError("--tune chooses the number of threads", "Remove --threads, and `threads` in config.toml")
    document = _run_tuning(context) if tune else _run_benchmark(context, prompt_tokens, generated_tokens, repeats)
    if document is None:
        return ExitCode.INTERRUPTED
    format_text = _format_tuning if tune else _format_benchmark
    Output().write_result(document, lambda: format_text(document), as_json=as_json)
    return ExitCode.DONE


def _show_event(event: ModelVerifying | ModelLoading | ModelReady | PrefillProgress, diagnostics: Diagnostics) -> None:
    from phichat.cli.support.turn_presenter import show_progress
    from phichat.engine.ipc.protocol import PrefillProgress
    from phichat.events import ModelReady

    if isinstance(event, ModelReady):
        diagnostics.print_notice(*event.notices)
    elif isinstance(event, PrefillProgress):
        diagnostics.show_progress(f"measuring, {event.done} of {event.total}")
    else:
        show_progress(event, diagnostics)


def _run_benchmark(
    context: AppContext, prompt_tokens: int, generated_tokens: int, repeats: int
) -> dict[str, Any] | None:
    from phichat.engine.ipc.protocol import BenchmarkResult, PrefillProgress, RunBenchmark
    from phichat.engine.planner.memory_estimate import compute_bytes_per_token
    from phichat.events import ModelReady
    from phichat.models.local.usage_log import GenerationSpeed, UsageLog
    from phichat.services.backend_factory import BackendFactory

    diagnostics, backend = Diagnostics(), BackendFactory(context).create_local_backend()
    result: BenchmarkResult | None = None
    name = ""
    with closing(backend):
        with cancel_on_sigint() as cancel:
            for event in backend.load(cancel):
                _show_event(event, diagnostics)
                if isinstance(event, ModelReady):
                    name = event.model.name
            if cancel.is_set():
                return None
            for reply in backend.run_benchmark(RunBenchmark(prompt_tokens, generated_tokens, repeats), cancel):
                if isinstance(reply, BenchmarkResult):
                    result = reply
                elif isinstance(reply, PrefillProgress):
                    _show_event(reply, diagnostics)
        diagnostics.clear_progress()
        if result is None:
            return None
        generation = _summarize_rates(result.generation_speeds)
        tokens_per_second = generation["tokens_per_second"]
        bytes_per_second = tokens_per_second * compute_bytes_per_token(backend.engine.header)
        speed = GenerationSpeed(tokens_per_second, backend.engine.plan.n_gpu_layers, "bench")
        UsageLog(context.paths.usage_log).record_speed(backend.path, speed)
        return {
            "model": name,
            "threads": backend.engine.threads.generation,
            "prompt_threads": backend.engine.threads.prompt,
            "n_gpu_layers": backend.engine.plan.n_gpu_layers,
            "prompt": {"tokens": prompt_tokens, **_summarize_rates(result.prompt_speeds)},
            "generation": {"tokens": generated_tokens, **generation},
            "memory_bandwidth_gb_s": result.memory_bandwidth / 1e9,
            "share_of_limit": bytes_per_second / result.memory_bandwidth,
        }


def _run_tuning(context: AppContext) -> dict[str, Any] | None:
    from phichat.engine.autotune.tuner import run_tuning
    from phichat.engine.autotune.tuning_cache import TuningCache, TuningSource
    from phichat.events import ModelReady
    from phichat.services.backend_factory import BackendFactory

    def create_backend(tuning_source: TuningSource, threads: int | None) -> LocalBackend:
        engine = replace(context.config.engine, threads=threads)
        return BackendFactory(context.with_config(engine=engine)).create_local_backend(tuning_source)

    diagnostics, name, shown_notices = Diagnostics(), "", set[str]()
    with cancel_on_sigint() as cancel:
        measurements = run_tuning(create_backend, TuningCache(context.paths.tuning_cache), cancel)
        while True:
            try:
                event = next(measurements)
            except StopIteration as end:
                report: TuningReport | None = end.value
                break
            if isinstance(event, ModelReady):
                name = event.model.name
                # The model is loaded many times, with the same notices.
                new_notices = tuple(line for line in event.notices if line not in shown_notices)
                shown_notices.update(new_notices)
                event = replace(event, notices=new_notices)
            _show_event(event, diagnostics)
    diagnostics.clear_progress()
    if report is None:
        return None
    if report.cpu_load > _MAX_BACKGROUND_LOAD:
        diagnostics.print_notice(
            f"Other programs were using {report.cpu_load:.0%} of the CPU. Measure again when the machine is idle."
        )
    return {
        "model": name,
        "usual_threads": report.default_threads,
        "threads": report.threads.generation,
        "prompt_threads": report.threads.prompt,
        "batches": [asdict(batch) for batch in report.batch_costs],
        "trials": [
            {
                "threads": trial.threads,
                "prompt": _summarize_rates(trial.prompt_speeds),
                "generation": _summarize_rates(trial.generation_speeds),
            }
            for trial in report.thread_trials
        ],
        "spin_count": report.spin_count,
        "spins": [
            {"spin_count": trial.spin_count, "idle": _summarize_rates(trial.idle), "busy": _summarize_rates(trial.busy)}
            for trial in report.spin_trials
        ],
        "load": report.cpu_load,
        "remembered_in": str(context.paths.tuning_cache),
    }


def _summarize_rates(rates: Sequence[float]) -> dict[str, float]:
    return {"tokens_per_second": fmean(rates), "stdev": stdev(rates) if len(rates) > 1 else 0.0}


def _format_benchmark(document: dict[str, Any]) -> str:
    lines = [f"{document['model']}, {document['threads']} threads, {document['n_gpu_layers']} layers on a GPU"]
    for name, title in (("prompt", "prompt evaluation"), ("generation", "generation")):
        speed = document[name]
        lines.append(f"{title:<18} {speed['tokens']:>6,} tokens  {_format_rate(speed):>9} tokens/s")
    lines.append(f"{'memory bandwidth':<18} {document['memory_bandwidth_gb_s']:.1f} GB/s")
    lines.append(f"{'efficiency':<18} {document['share_of_limit']:.0%} of the bandwidth limit of generation")
    return "\n".join(lines)


def _format_rate(speed: dict[str, float]) -> str:
    return f"{speed['tokens_per_second']:>9.1f} ± {speed['stdev']:.1f}"


def _format_tuning(document: dict[str, Any]) -> str:
    from phichat.cli.support.tables import format_table

    trials = [
        [str(one["threads"]), _format_rate(one["prompt"]), _format_rate(one["generation"])]
        for one in document["trials"]
    ]
    lines = [document["model"], format_table(["threads", "prompt, tokens/s", "generation, tokens/s"], trials)]
    batches = [
        [str(one["tokens"]), f"{one['cost']:.2f}", "yes" if one["exact"] else "no"] for one in document["batches"]
    ]
    lines += ["", format_table(["batch size", "cost relative to one token", "bit-identical"], batches)]
    if document["spins"]:
        spins = [
            [f"{one['spin_count']:,}", _format_rate(one["idle"]), _format_rate(one["busy"])]
            for one in document["spins"]
        ]
        header = ["spins", "generation alone, tokens/s", "alongside another program, tokens/s"]
        lines += ["", format_table(header, spins)]
    threads, prompt_threads = document["threads"], document["prompt_threads"]
    default_note = " (the default)" if threads == prompt_threads == document["usual_threads"] else ""
    spin_note = f", {document['spin_count']:,} spins" if document["spin_count"] else ""
    result = f"From now on: {threads} threads for generation, {prompt_threads} for prompts{default_note}{spin_note}"
    return "\n".join([*lines, "", result])
