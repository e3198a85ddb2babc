"""`phichat bench`: how fast a model reads and writes on this machine."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import Any

import click

from phichat.cli.diagnostics import Diagnostics, ExitCode
from phichat.cli.interrupt import ctrl_c
from phichat.cli.options import configure, engine_options
from phichat.cli.output import Output
from phichat.paths import Paths


@click.command()
@click.argument("model", required=False)
@click.option("-p", "--prompt-tokens", type=click.IntRange(1), default=512, show_default=True, help="Prompt length.")
@click.option("-n", "--generated-tokens", type=click.IntRange(1), default=128, show_default=True, help="Reply length.")
@click.option("-r", "--repeats", type=click.IntRange(1), default=5, show_default=True, help="Runs after one warm-up.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@engine_options
def bench(
    model: str | None, prompt_tokens: int, generated_tokens: int, repeats: int, as_json: bool, **flags: Any
) -> int:
    """Measure how fast MODEL reads and writes.

    Generation has to read every weight once a token, so the bandwidth is the limit of its speed.
    """
    from phichat.engine.offload import bytes_read_per_token
    from phichat.engine.protocol import Bench, Benched, Evaluating
    from phichat.events import ModelChecking, ModelLoading, ModelReady
    from phichat.wiring import local_backend, remember_speed

    if flags["ctx_size"] is None:
        flags["ctx_size"] = max(prompt_tokens, generated_tokens)
    paths = Paths.find()
    diagnostics, output = Diagnostics(), Output()
    backend = local_backend(configure(paths, model=model, **flags), paths)
    result: Benched | None = None
    name = ""
    try:
        with ctrl_c() as cancel:
            for event in backend.load(cancel):
                match event:
                    case ModelChecking():
                        diagnostics.progress(f"checking {event.model} {event.fraction:.0%}")
                    case ModelLoading():
                        diagnostics.progress(f"loading {event.model} {event.fraction:.0%}")
                    case ModelReady():
                        name = event.model.name
                        for notice in event.notices:
                            diagnostics.notice(notice)
            if cancel.is_set():
                return ExitCode.INTERRUPTED
            for reply in backend.bench(Bench(prompt_tokens, generated_tokens, repeats), cancel):
                match reply:
                    case Evaluating():
                        diagnostics.progress(f"measuring, {reply.done} of {reply.total}")
                    case Benched():
                        result = reply
        diagnostics.clear_progress()
        if result is None:
            return ExitCode.INTERRUPTED
        generation = _speed(generated_tokens, result.generation)
        remember_speed(paths, backend, generation["tokens_per_second"])
        read = generation["tokens_per_second"] * bytes_read_per_token(backend.header)
        document = {
            "model": name,
            "threads": backend.threads,
            "n_gpu_layers": backend.plan.n_gpu_layers,
            "prompt": _speed(prompt_tokens, result.prompt),
            "generation": generation,
            "memory_bandwidth_gb_s": result.memory_bandwidth / 1e9,
            "share_of_limit": read / result.memory_bandwidth,
        }
    finally:
        backend.close()
    if as_json:
        output.document(document)
    else:
        output.text(_table(document))
    return ExitCode.DONE


def _speed(tokens: int, rates: tuple[float, ...]) -> dict[str, float]:
    return {
        "tokens": tokens,
        "tokens_per_second": fmean(rates),
        "stdev": stdev(rates) if len(rates) > 1 else 0.0,
    }


def _table(document: dict[str, Any]) -> str:
    lines = [f"{document['model']}, {document['threads']} threads, {document['n_gpu_layers']} layers on a GPU"]
    for name, title in (("prompt", "prompt evaluation"), ("generation", "generation")):
        speed = document[name]
        spread = f"{speed['tokens_per_second']:>9.1f} ± {speed['stdev']:.1f} tokens/s"
        lines.append(f"{title:<18} {speed['tokens']:>6,} tokens  {spread}")
    lines.append(f"{'memory bandwidth':<18} {document['memory_bandwidth_gb_s']:.1f} GB/s")
    lines.append(f"{'share of limit':<18} {document['share_of_limit']:.0%} of what this bandwidth allows generation")
    return "\n".join(lines)
