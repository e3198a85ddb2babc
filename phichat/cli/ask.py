"""`phichat ask`: one prompt, one answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, assert_never

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.interrupt import cancel_on_sigint
from phichat.cli.support.options import all_options, create_context, keep_alive_option
from phichat.cli.support.output import Output
from phichat.cli.support.vote_presenter import VotePresenter
from phichat.code_report import CodeReport
from phichat.errors import UsageError
from phichat.events import (
    CodeChecked,
    ContextTrimmed,
    Event,
    ModelLoading,
    ModelReady,
    ModelVerifying,
    PromptProgress,
    ReasoningDelta,
    SampleFinished,
    SamplingProgress,
    TextDelta,
    TranscriptUnavailable,
    TurnFinished,
    TurnStarted,
    VoteResult,
)
from phichat.types import FinishReason

_ANSWER_KINDS = ("auto", "number", "choice", "line", "code", "json")


@click.command()
@click.argument("prompt", nargs=-1)
@all_options
@keep_alive_option
@click.option("-s", "--system", metavar="TEXT", help="System prompt.")
@click.option("-f", "--file", "files", multiple=True, metavar="FILE", help="Attach a text file; repeatable.")
@click.option("-c", "--continue", "resume_latest", is_flag=True, help="Go on with the newest conversation.")
@click.option("--cid", metavar="ID", help="Go on with this conversation; the beginning of its id is enough.")
@click.option("-o", "--option", "options", nargs=2, multiple=True, metavar="KEY VALUE", help="Any option by name.")
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
    "--vote-by", type=click.Choice(_ANSWER_KINDS), help="What the answers are compared by; auto goes by their looks."
)
@click.option("--offline", is_flag=True, expose_value=False, help="Never connect anywhere but to an endpoint.")
def ask(
    prompt: tuple[str, ...],
    files: tuple[str, ...],
    resume_latest: bool,
    cid: str | None,
    options: tuple[tuple[str, str], ...],
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
        raise UsageError("--vote-by says how answers are compared, and there is one", "Add --vote 5")
    context = create_context(options, log=False if no_log else None, **flags)
    from phichat.cli.support.attachments import compose_prompt

    full_prompt = compose_prompt(prompt, [Path(name) for name in files], sys.stdin)
    if not full_prompt:
        raise UsageError("There is no prompt", "Write it behind `phichat ask`, or pipe it in")

    from phichat.chat.pipeline import run_turn
    from phichat.chat.session import Session
    from phichat.services.backend_factory import BackendFactory
    from phichat.services.transcript_service import TranscriptService

    vote_config = None
    if vote:
        from phichat.chat.vote.answer_extraction import AnswerKind
        from phichat.chat.vote.majority import VoteConfig

        vote_config = VoteConfig(vote, AnswerKind(vote_by or AnswerKind.AUTO))
    diagnostics = Diagnostics()
    resumed = None
    if resume_latest or cid is not None:
        with TranscriptService(context) as transcripts:
            resumed = transcripts.load_resumed(cid)
    if resumed is not None:
        context = resumed.apply_to(context, model=flags["model"], system=flags["system"])
    elif resume_latest:
        diagnostics.print_notice("There is no conversation yet; this begins one.")
    factory = BackendFactory(context)
    config, training_scope = factory.apply_model_defaults()
    turn_recorder = TranscriptService(context).create_recorder(resumed)
    chat_session = Session(
        factory.create_chat_backend(),
        config.system,
        resumed.to_history() if resumed else (),
        lambda: (turn_recorder and turn_recorder.conversation_id) or "",
    )
    presenter = AskPresenter(
        diagnostics,
        Output(),
        stream=not (as_json or no_stream or extract),
        show_reasoning=not hide_reasoning and not as_json,
        previous_model=resumed.model.name if resumed and resumed.model else "",
    )
    try:
        with cancel_on_sigint() as cancel:
            try:
                for event in run_turn(
                    chat_session, full_prompt, config.sampling, cancel, turn_recorder, training_scope, vote_config
                ):
                    presenter.on_event(event)
            finally:
                if presenter.finish_event is not None:
                    conversation_id = turn_recorder.conversation_id if turn_recorder else None
                    presenter.print_end(conversation_id, as_json=as_json, extract=extract, usage=usage)
    finally:
        chat_session.close()
        if turn_recorder:
            turn_recorder.close()
    return presenter.exit_code(strict=strict)


class AskPresenter:
    """What of the stream goes where."""

    def __init__(
        self, diagnostics: Diagnostics, output: Output, *, stream: bool, show_reasoning: bool, previous_model: str
    ) -> None:
        """answered_before: the model of the conversation so far, "" when there is none."""
        self._diagnostics, self._output = diagnostics, output
        self._previous_model = previous_model
        self._stream, self._show_reasoning = stream, show_reasoning
        self._model = ""
        self._load_s = 0.0
        self._code_report = CodeReport()
        self._vote_presenter = VotePresenter()
        self.finish_event: TurnFinished | None = None

    def on_event(self, event: Event) -> None:
        """Take in one event."""
        diagnostics = self._diagnostics
        match event:
            case TurnStarted():
                pass
            case ModelVerifying():
                diagnostics.show_progress(f"checking {event.model} {event.fraction:.0%}")
            case ModelLoading():
                diagnostics.show_progress(f"loading {event.model} {event.fraction:.0%}")
            case ModelReady():
                self._model = event.model.name
                if self._previous_model not in ("", self._model):
                    diagnostics.print_notice(
                        f"Until now {self._previous_model} answered, from here on {self._model} does."
                    )
                for notice in event.notices:
                    diagnostics.print_notice(notice)
                diagnostics.show_progress("reading the prompt")
            case ContextTrimmed():
                turns = "turn" if event.dropped_turns == 1 else "turns"
                diagnostics.print_notice(
                    f"The oldest {event.dropped_turns} {turns} did not fit the context of {event.n_ctx:,} tokens "
                    "and were left out."
                )
            case PromptProgress():
                if event.done < event.total:
                    diagnostics.show_progress(f"reading {event.done:,} of {event.total:,} tokens")
                else:
                    diagnostics.show_progress("thinking")
            case ReasoningDelta():
                if self._show_reasoning:
                    diagnostics.print_reasoning(event.text)
            case TextDelta():
                if self._stream:
                    diagnostics.end_reasoning()
                    diagnostics.clear_progress()
                    self._output.write_delta(event.text)
            case CodeChecked():
                self._code_report = event.report
            case TranscriptUnavailable():
                diagnostics.print_notice(f"This conversation is not being kept: {event.reason}.")
            case SamplingProgress() | SampleFinished() | VoteResult():
                if progress := self._vote_presenter.on_event(event):
                    diagnostics.show_progress(progress)
            case TurnFinished():
                self.finish_event = event
            case _:
                assert_never(event)

    def print_end(self, conversation_id: str | None, *, as_json: bool, extract: bool, usage: bool) -> None:
        """Print what is printed at the end. kept_as: the conversation's id. Raises ReaderLeft."""
        assert self.finish_event is not None
        self._diagnostics.end_reasoning()
        self._diagnostics.clear_progress()
        if as_json:
            self._output.write_json(self._to_document(self.finish_event, conversation_id))
        elif extract:
            from phichat.codecheck.blocks import find_first_code_block

            block = find_first_code_block(self.finish_event.text)
            self._output.write_text(self.finish_event.text if block is None else block)
        elif self._stream:
            self._output.end_text()
        else:
            self._output.write_text(self.finish_event.text)
        if outcome := self._vote_presenter.format_result():
            self._diagnostics.print_notice(outcome)
        for warning in self._code_report.warnings:
            self._diagnostics.print_notice(warning)
        if usage and self.finish_event.usage.prompt_tokens:
            self._diagnostics.print_notice(_format_usage(self.finish_event))
        if self._is_context_full(self.finish_event):
            self._diagnostics.print_notice(
                f"The answer ends here because the context of {self.finish_event.n_ctx:,} tokens is full; "
                "--ctx-size makes it larger."
            )
        for notice in self.finish_event.notices:
            self._diagnostics.print_notice(notice)
        if conversation_id and self._diagnostics.is_terminal:
            self._diagnostics.print_notice(f"Go on with `phichat ask --cid {conversation_id}`.")

    @staticmethod
    def _is_context_full(finished: TurnFinished) -> bool:
        used = finished.usage.prompt_tokens + finished.usage.completion_tokens
        return finished.finish_reason is FinishReason.LENGTH and used > finished.n_ctx > 0

    def _to_document(self, finished: TurnFinished, conversation_id: str | None) -> dict[str, object]:
        timings, usage = finished.timings, finished.usage
        return {
            "conversation_id": conversation_id,
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
            "code": self._code_report.to_dict(),
            **self._vote_presenter.to_document(),
        }

    def exit_code(self, *, strict: bool) -> ExitCode:
        """For a turn that raised nothing."""
        if self.finish_event is None or self.finish_event.finish_reason is FinishReason.CANCELLED:
            return ExitCode.INTERRUPTED
        if strict and self._code_report.warnings:
            return ExitCode.CODE_WARNING
        return ExitCode.DONE


def _format_usage(finished: TurnFinished) -> str:
    usage, timings = finished.usage, finished.timings
    extra_times = f", waiting {timings.wait_s:.2f} s" if timings.wait_s >= 0.005 else ""
    extra_times += f", restoring {timings.restore_s:.2f} s" if timings.restore_s >= 0.005 else ""
    return (
        f"{usage.prompt_tokens:,} prompt tokens ({usage.cached_tokens:,} cached) in {timings.prompt_s:.2f} s, "
        f"{usage.completion_tokens:,} generated in {timings.generation_s:.2f} s, "
        f"{timings.tokens_per_second:.1f} tokens/s; loading took {timings.load_s:.2f} s{extra_times}"
    )
