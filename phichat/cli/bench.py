"""`phichat bench`: how fast a model reads and writes on this machine, and what makes it faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import click

from phichat.cli.diagnostics import Diagnostics, ExitCode
from phichat.cli.interrupt import ctrl_c
from phichat.cli.options import configure, engine_options
from phichat.cli.output import Output
from phichat.errors import UsageError
from phichat.paths import Paths

if TYPE_CHECKING:
    from phichat.config import Config
    from phichat.engine.local import LocalBackend
    from phichat.engine.measuring import Benched
    from phichat.engine.protocol import Evaluating
    from phichat.engine.tuner import Found
    from phichat.events import ModelChecking, ModelLoading, ModelReady

_TUNED_CONTEXT = 1024
_BUSY = 0.15
"""Of all processors: when others use so much, the best choice may be another one than usually."""


@click.command()
@click.argument("model", required=False)
@click.option("-p", "--prompt-tokens", type=click.IntRange(1), default=512, show_default=True, help="Prompt length.")
@click.option("-n", "--generated-tokens", type=click.IntRange(1), default=128, show_default=True, help="Reply length.")
@click.option("-r", "--repeats", type=click.IntRange(1), default=5, show_default=True, help="Runs after one warm-up.")
@click.option("--tune", is_flag=True, help="Find the best number of threads, and use it from now on.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@engine_options
def bench(
    model: str | None,
    prompt_tokens: int,
    generated_tokens: int,
    repeats: int,
    tune: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Measure how fast MODEL reads and writes.

    Generation has to read every weight once a token, so the bandwidth is the limit of its speed.
    With --tune: try numbers of threads, and how long they wait for each other awake, and remember for models of
    this size what is faster than the usual choice each time.
    """
    paths = Paths.find()
    if flags["ctx_size"] is None:
        flags["ctx_size"] = _TUNED_CONTEXT if tune else max(prompt_tokens, generated_tokens)
    config = configure(paths, model=model, **flags)
    if tune and config.engine.threads:
        raise UsageError("The number of threads is given already", "leave --threads and the setting out with --tune")
    document = _tuned(config, paths) if tune else _measured(config, paths, prompt_tokens, generated_tokens, repeats)
    if document is None:
        return ExitCode.INTERRUPTED
    if as_json:
        Output().document(document)
    else:
        Output().text(_tuning(document) if tune else _table(document))
    return ExitCode.DONE


def _tell(event: ModelChecking | ModelLoading | ModelReady | Evaluating, diagnostics: Diagnostics) -> None:
    """Progress, and what there is to notice."""
    from phichat.engine.protocol import Evaluating
    from phichat.events import ModelChecking, ModelLoading, ModelReady

    match event:
        case ModelChecking():
            diagnostics.progress(f"checking {event.model} {event.fraction:.0%}")
        case ModelLoading():
            diagnostics.progress(f"loading {event.model} {event.fraction:.0%}")
        case ModelReady():
            for notice in event.notices:
                diagnostics.notice(notice)
        case Evaluating():
            diagnostics.progress(f"measuring, {event.done} of {event.total}")


def _measured(config: Config, paths: Paths, prompt: int, generated: int, repeats: int) -> dict[str, Any] | None:
    from phichat.engine.measuring import Bench, Benched
    from phichat.engine.offload import bytes_read_per_token
    from phichat.engine.protocol import Evaluating
    from phichat.events import ModelReady
    from phichat.wiring import local_backend, remember_speed

    diagnostics, backend = Diagnostics(), local_backend(config, paths)
    result: Benched | None = None
    name = ""
    try:
        with ctrl_c() as cancel:
            for event in backend.load(cancel):
                _tell(event, diagnostics)
                if isinstance(event, ModelReady):
                    name = event.model.name
            if cancel.is_set():
                return None
            for reply in backend.measure(Bench(prompt, generated, repeats), cancel):
                if isinstance(reply, Benched):
                    result = reply
                elif isinstance(reply, Evaluating):
                    _tell(reply, diagnostics)
        diagnostics.clear_progress()
        if result is None:
            return None
        generation = _speed(generated, result.generation)
        remember_speed(paths, backend, generation["tokens_per_second"])
        read = generation["tokens_per_second"] * bytes_read_per_token(backend.header)
        return {
            "model": name,
            "threads": backend.threads.generation,
            "prompt_threads": backend.threads.prompt,
            "n_gpu_layers": backend.plan.n_gpu_layers,
            "prompt": _speed(prompt, result.prompt),
            "generation": generation,
            "memory_bandwidth_gb_s": result.memory_bandwidth / 1e9,
            "share_of_limit": read / result.memory_bandwidth,
        }
    finally:
        backend.close()


def _tuned(config: Config, paths: Paths) -> dict[str, Any] | None:
    from phichat.engine.tuner import measure
    from phichat.engine.tuning import Preferences, Tunings
    from phichat.events import ModelReady
    from phichat.wiring import local_backend

    def backend(preferences: Preferences, threads: int | None) -> LocalBackend:
        return local_backend(replace(config, engine=replace(config.engine, threads=threads)), paths, preferences)

    diagnostics, name, told = Diagnostics(), "", set[str]()
    with ctrl_c() as cancel:
        found: Found | None = None
        measuring = measure(backend, Tunings(paths.engine_tunings), cancel)
        while True:
            try:
                event = next(measuring)
            except StopIteration as end:
                found = end.value
                break
            if isinstance(event, ModelReady):
                name = event.model.name
                # The model is loaded again and again.
                told, new = told.union(event.notices), tuple(line for line in event.notices if line not in told)
                event = replace(event, notices=new)
            _tell(event, diagnostics)
    diagnostics.clear_progress()
    if found is None:
        return None
    if found.load > _BUSY:
        diagnostics.notice(
            f"Other programs used {found.load:.0%} of this machine's processors; measure again when they do not."
        )
    return {
        "model": name,
        "usual_threads": found.usual,
        "threads": found.threads.generation,
        "prompt_threads": found.threads.prompt,
        "batches": [asdict(batch) for batch in found.batches],
        "trials": [
            {
                "threads": trial.threads,
                "prompt": _rate(trial.prompt),
                "generation": _rate(trial.generation),
            }
            for trial in found.trials
        ],
        "spin_count": found.spin_count,
        "spins": [
            {"spin_count": trial.spin_count, "idle": _rate(trial.idle), "busy": _rate(trial.busy)}
            for trial in found.spins
        ],
        "load": found.load,
        "remembered_in": str(paths.engine_tunings),
    }


def _rate(rates: Sequence[float]) -> dict[str, float]:
    return {"tokens_per_second": fmean(rates), "stdev": stdev(rates) if len(rates) > 1 else 0.0}


def _speed(tokens: int, rates: Sequence[float]) -> dict[str, float]:
    return {"tokens": tokens, **_rate(rates)}


def _table(document: dict[str, Any]) -> str:
    lines = [f"{document['model']}, {document['threads']} threads, {document['n_gpu_layers']} layers on a GPU"]
    for name, title in (("prompt", "prompt evaluation"), ("generation", "generation")):
        speed = document[name]
        lines.append(f"{title:<18} {speed['tokens']:>6,} tokens  {_spread(speed):>9} tokens/s")
    lines.append(f"{'memory bandwidth':<18} {document['memory_bandwidth_gb_s']:.1f} GB/s")
    lines.append(f"{'share of limit':<18} {document['share_of_limit']:.0%} of what this bandwidth allows generation")
    return "\n".join(lines)


def _spread(speed: dict[str, float]) -> str:
    return f"{speed['tokens_per_second']:>9.1f} ± {speed['stdev']:.1f}"


def _tuning(document: dict[str, Any]) -> str:
    from phichat.cli.tables import table

    trials = [[str(one["threads"]), _spread(one["prompt"]), _spread(one["generation"])] for one in document["trials"]]
    lines = [document["model"], table(["threads", "reading, tokens/s", "writing, tokens/s"], trials)]
    batches = [
        [str(one["tokens"]), f"{one['cost']:.2f}", "yes" if one["exact"] else "no"] for one in document["batches"]
    ]
    lines += ["", table(["tokens at once", "cost in single tokens", "same to the last bit"], batches)]
    if document["spins"]:
        spins = [[f"{one['spin_count']:,}", _spread(one["idle"]), _spread(one["busy"])] for one in document["spins"]]
        lines += ["", table(["spins", "writing alone, tokens/s", "beside another program, tokens/s"], spins)]
    usual = " (as usual)" if document["threads"] == document["prompt_threads"] == document["usual_threads"] else ""
    lines += ["", f"From now on: {document['threads']} threads to write, {document['prompt_threads']} to read{usual}"]
    if document["spin_count"]:
        lines[-1] += f", {document['spin_count']:,} spins"
    return "\n".join(lines)
