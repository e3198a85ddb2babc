"""`phichat ask`: one prompt, one answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, assert_never

import click

from phichat.cli.diagnostics import Diagnostics, ExitCode
from phichat.cli.interrupt import ctrl_c
from phichat.cli.options import all_options, configure, keep_alive_option
from phichat.cli.output import Output
from phichat.cli.vote import Samples
from phichat.code_report import CodeReport
from phichat.errors import UsageError
from phichat.events import (
    CodeChecked,
    ContextTrimmed,
    Event,
    ModelChecking,
    ModelLoading,
    ModelReady,
    NotKept,
    PromptProgress,
    ReasoningDelta,
    SampleFinished,
    Sampling,
    TextDelta,
    TurnFinished,
    TurnStarted,
    Voted,
)
from phichat.messages import FinishReason
from phichat.paths import Paths

_KINDS = ("auto", "number", "choice", "line", "code", "json")


@click.command()
@click.argument("prompt", nargs=-1)
@all_options
@keep_alive_option
@click.option("-s", "--system", metavar="TEXT", help="System prompt.")
@click.option("-f", "--file", "files", multiple=True, metavar="FILE", help="Attach a text file; repeatable.")
@click.option("-c", "--continue", "continues", is_flag=True, help="Go on with the newest conversation.")
@click.option("--cid", metavar="ID", help="Go on with this conversation; the beginning of its id is enough.")
@click.option("-o", "--option", "pairs", nargs=2, multiple=True, metavar="KEY VALUE", help="Any option by name.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--no-stream", is_flag=True, help="Print the answer when it is complete.")
@click.option("-x", "--extract", is_flag=True, help="Print only the first code block.")
@click.option("-u", "--usage", is_flag=True, help="Tokens and speed on stderr.")
@click.option("-R", "--hide-reasoning", is_flag=True, help="Do not show what the model thinks.")
@click.option("-n", "--no-log", is_flag=True, help="Keep no transcript.")
@click.option("--strict", is_flag=True, help="Exit 6 when the code check warns.")
@click.option(
    "--vote", type=click.IntRange(1, 1000), metavar="N", help="Sample N answers and print the one most agree on."
)
@click.option(
    "--vote-by", type=click.Choice(_KINDS), help="What the answers are compared by; auto goes by their looks."
)
@click.option("--offline", is_flag=True, expose_value=False, help="Never connect anywhere but to an endpoint.")
def ask(
    prompt: tuple[str, ...],
    files: tuple[str, ...],
    continues: bool,
    cid: str | None,
    pairs: tuple[tuple[str, str], ...],
    as_json: bool,
    no_stream: bool,
    extract: bool,
    usage: bool,
    hide_reasoning: bool,
    no_log: bool,
    strict: bool,
    vote: int | None,
    vote_by: str | None,
    **flags: Any,
) -> int:
    """Ask a model one question. Text that is piped in stands before PROMPT."""
    if vote_by and not vote:
        raise UsageError("--vote-by says how answers are compared, and there is one", "add --vote 5")
    paths = Paths.find()
    config = configure(paths, pairs, log=False if no_log else None, **flags)
    from phichat.cli.attachments import compose

    whole = compose(prompt, [Path(name) for name in files], sys.stdin)
    if not whole:
        raise UsageError("There is no prompt", "write it behind `phichat ask`, or pipe it in")

    from phichat.chat.turn import run_turn
    from phichat.wiring import past, recorder, session, suited

    poll = None
    if vote:
        from phichat.chat.answers import By
        from phichat.chat.voting import Poll

        poll = Poll(vote, By(vote_by or By.AUTO))
    diagnostics = Diagnostics()
    before = past(paths, cid) if continues or cid is not None else None
    if before is not None:
        config = before.carried(config, paths, model=flags["model"], system=flags["system"])
    elif continues:
        diagnostics.notice("There is no conversation yet; this begins one.")
    config, scope = suited(config, paths)
    keeper = recorder(config, paths, before)
    conversation = session(config, paths, before, keeper)
    view = _View(
        diagnostics,
        Output(),
        streams=not (as_json or no_stream or extract),
        shows_reasoning=not hide_reasoning and not as_json,
        answered_before=before.model.name if before and before.model else "",
    )
    try:
        with ctrl_c() as cancel:
            try:
                for event in run_turn(conversation, whole, config.sampling, cancel, keeper, scope, poll):
                    view.show(event)
            finally:
                if view.finished is not None:
                    kept_as = keeper.conversation if keeper else None
                    view.close(kept_as, as_json=as_json, extract=extract, usage=usage)
    finally:
        conversation.close()
        if keeper:
            keeper.close()
    return view.exit_code(strict=strict)


class _View:
    """What of the stream goes where."""

    def __init__(
        self, diagnostics: Diagnostics, output: Output, *, streams: bool, shows_reasoning: bool, answered_before: str
    ) -> None:
        """answered_before: the model of the conversation so far, "" when there is none."""
        self._diagnostics, self._output = diagnostics, output
        self._answered_before = answered_before
        self._streams, self._shows_reasoning = streams, shows_reasoning
        self._model = ""
        self._load_s = 0.0
        self._code = CodeReport()
        self._samples = Samples()
        self.finished: TurnFinished | None = None

    def show(self, event: Event) -> None:
        """Take in one event."""
        tell = self._diagnostics
        match event:
            case TurnStarted():
                pass
            case ModelChecking():
                tell.progress(f"checking {event.model} {event.fraction:.0%}")
            case ModelLoading():
                tell.progress(f"loading {event.model} {event.fraction:.0%}")
            case ModelReady():
                self._model = event.model.name
                if self._answered_before not in ("", self._model):
                    tell.notice(f"Until now {self._answered_before} answered, from here on {self._model} does.")
                for notice in event.notices:
                    tell.notice(notice)
                tell.progress("reading the prompt")
            case ContextTrimmed():
                turns = "turn" if event.dropped_turns == 1 else "turns"
                tell.notice(
                    f"The oldest {event.dropped_turns} {turns} did not fit the context of {event.n_ctx:,} tokens "
                    "and were left out."
                )
            case PromptProgress():
                if event.done < event.total:
                    tell.progress(f"reading {event.done:,} of {event.total:,} tokens")
                else:
                    tell.progress("thinking")
            case ReasoningDelta():
                if self._shows_reasoning:
                    tell.reasoning(event.text)
            case TextDelta():
                if self._streams:
                    tell.end_reasoning()
                    tell.clear_progress()
                    self._output.piece(event.text)
            case CodeChecked():
                self._code = event.report
            case NotKept():
                tell.notice(f"This conversation is not being kept: {event.reason}.")
            case Sampling() | SampleFinished() | Voted():
                if progress := self._samples.take(event):
                    tell.progress(progress)
            case TurnFinished():
                self.finished = event
            case _:
                assert_never(event)

    def close(self, kept_as: str | None, *, as_json: bool, extract: bool, usage: bool) -> None:
        """Print what is printed at the end. kept_as: the conversation's id. Raises ReaderLeft."""
        assert self.finished is not None
        self._diagnostics.end_reasoning()
        self._diagnostics.clear_progress()
        if as_json:
            self._output.document(self._document(self.finished, kept_as))
        elif extract:
            from phichat.codecheck.blocks import first_code_block

            block = first_code_block(self.finished.text)
            self._output.text(self.finished.text if block is None else block)
        elif self._streams:
            self._output.end()
        else:
            self._output.text(self.finished.text)
        if outcome := self._samples.outcome():
            self._diagnostics.notice(outcome)
        for warning in self._code.warnings:
            self._diagnostics.notice(warning)
        if usage and self.finished.usage.prompt_tokens:
            self._diagnostics.notice(_usage(self.finished))
        if self._context_full(self.finished):
            self._diagnostics.notice(
                f"The answer ends here because the context of {self.finished.n_ctx:,} tokens is full; "
                "--ctx-size makes it larger."
            )
        for notice in self.finished.notices:
            self._diagnostics.notice(notice)
        if kept_as and self._diagnostics.on_terminal:
            self._diagnostics.notice(f"Go on with `phichat ask --cid {kept_as}`.")

    @staticmethod
    def _context_full(finished: TurnFinished) -> bool:
        used = finished.usage.prompt_tokens + finished.usage.completion_tokens
        return finished.finish_reason is FinishReason.LENGTH and used > finished.n_ctx > 0

    def _document(self, finished: TurnFinished, kept_as: str | None) -> dict[str, object]:
        timings, usage = finished.timings, finished.usage
        return {
            "conversation_id": kept_as,
            "model": self._model,
            "text": finished.text,
            "reasoning": finished.reasoning,
            "finish_reason": finished.finish_reason,
            "seed": finished.seed,
            "usage": {
                "prompt_tokens": usage.prompt_tokens,
                "cached_tokens": usage.cached_tokens,
                "completion_tokens": usage.completion_tokens,
            },
            "timings": {
                "load_s": timings.load_s,
                "prompt_s": timings.prompt_s,
                "first_token_s": timings.first_token_s,
                "generation_s": timings.generation_s,
                "tokens_per_second": timings.tokens_per_second,
                "restore_s": timings.restore_s,
                "wait_s": timings.wait_s,
            },
            "context": {"n_ctx": finished.n_ctx, "dropped_turns": finished.dropped_turns},
            "code": self._code.document(),
            **self._samples.document(),
        }

    def exit_code(self, *, strict: bool) -> ExitCode:
        """For a turn that raised nothing."""
        if self.finished is None or self.finished.finish_reason is FinishReason.CANCELLED:
            return ExitCode.INTERRUPTED
        if strict and self._code.warnings:
            return ExitCode.CODE_WARNING
        return ExitCode.DONE


def _usage(finished: TurnFinished) -> str:
    usage, timings = finished.usage, finished.timings
    others = f", waiting {timings.wait_s:.2f} s" if timings.wait_s >= 0.005 else ""
    others += f", restoring {timings.restore_s:.2f} s" if timings.restore_s >= 0.005 else ""
    return (
        f"{usage.prompt_tokens:,} prompt tokens ({usage.cached_tokens:,} cached) in {timings.prompt_s:.2f} s, "
        f"{usage.completion_tokens:,} generated in {timings.generation_s:.2f} s, "
        f"{timings.tokens_per_second:.1f} tokens/s; loading took {timings.load_s:.2f} s{others}"
    )
