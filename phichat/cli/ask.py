"""`phichat ask`: one prompt, one answer."""

import sys
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import click

from phichat.chat.attachments import MAX_ATTACHMENT_BYTES, decode_text, read_attachment
from phichat.chat.presenter import present
from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.interrupt import cancel_on_sigint
from phichat.cli.support.options import all_options, create_context, json_option, keep_alive_option
from phichat.cli.support.output import Output
from phichat.cli.support.turn_presenter import TerminalPresenter, show_progress
from phichat.code_report import CodeReport
from phichat.errors import AttachmentError, UsageError
from phichat.events import CodeChecked, ModelReady, SampleFinished, TurnFinished, VoteResult
from phichat.types import FinishReason, Part, TextPart

_ANSWER_KINDS = ("auto", "number", "choice", "line", "code", "json")


@click.command()
@click.argument("prompt", nargs=-1)
@all_options
@keep_alive_option
@click.option("-s", "--system", metavar="TEXT", help="System prompt.")
@click.option("-f", "--file", "files", multiple=True, metavar="FILE", help="Attach a text file; repeatable.")
@click.option("-c", "--continue", "resume_latest", is_flag=True, help="Continue the latest conversation.")
@click.option("--cid", metavar="ID", help="Continue this conversation (an ID prefix is enough).")
@click.option("-o", "--option", "options", nargs=2, multiple=True, metavar="KEY VALUE", help="Set any option by name.")
@json_option
@click.option("--no-stream", is_flag=True, help="Print the answer when it is complete.")
@click.option("-x", "--extract", is_flag=True, help="Print only the first code block.")
@click.option("-u", "--usage", is_flag=True, help="Print token counts and speed to stderr.")
@click.option("-R", "--hide-reasoning", is_flag=True, help="Hide the model's reasoning.")
@click.option("-n", "--no-log", is_flag=True, help="Don't save this conversation.")
@click.option("--strict", is_flag=True, help="Exit with status 6 if the code check finds problems.")
@click.option(
    "--vote", type=click.IntRange(1, 1000), metavar="N", help="Sample N answers and print the most common one."
)
@click.option(
    "--vote-by", type=click.Choice(_ANSWER_KINDS), help="How answers are compared; auto guesses from their form."
)
@click.option("--offline", is_flag=True, expose_value=False, help="No network access except to a configured endpoint.")
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
    """Ask a model one question. Piped text comes before PROMPT."""
    if vote_by and not vote:
        raise UsageError("--vote-by needs several answers", "Add --vote 5")
    context = create_context(options, log=False if no_log else None, **flags)
    parts = _read_prompt(prompt, [Path(name) for name in files], sys.stdin)
    if not parts:
        raise UsageError("No prompt given", 'Use `phichat ask "..."` or pipe one in')

    from phichat.chat.context_window import TurnHistory
    from phichat.chat.pipeline import TurnPipeline
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
        diagnostics.print_notice("No conversation to continue yet; starting a new one.")
    factory = BackendFactory(context)
    config, training_scope = factory.apply_model_defaults()
    recorder = TranscriptService(context).create_recorder(resumed)
    backend = factory.create_chat_backend()
    history = TurnHistory(config.system, resumed.to_history() if resumed else (), parts)
    presenter = AskPresenter(
        diagnostics,
        Output(),
        stream=not (as_json or no_stream or extract),
        show_reasoning=not hide_reasoning and not as_json,
        previous_model=resumed.model.name if resumed and resumed.model else "",
    )
    with closing(recorder) if recorder else nullcontext(), closing(backend), cancel_on_sigint() as cancel:
        try:
            pipeline = TurnPipeline(backend, recorder, training_scope)
            for event in pipeline.run(history, config.sampling, cancel, vote=vote_config):
                present(event, presenter)
                show_progress(event, diagnostics)
        finally:
            if presenter.finish_event is not None:
                conversation_id = recorder.conversation_id if recorder else None
                presenter.print_end(conversation_id, as_json=as_json, extract=extract, usage=usage)
    return presenter.exit_code(strict=strict)


def _read_prompt(words: Sequence[str], files: Sequence[Path], stdin: TextIO | None) -> tuple[Part, ...]:
    """Return the parts in the order files, piped text, words; empty when there are none."""
    parts: list[Part] = [read_attachment(path) for path in files]
    texts = [" ".join(words)]
    if stdin is not None and not stdin.closed and not stdin.isatty():
        texts.insert(0, decode_text(_read_stdin(stdin), "Standard input").strip("\n"))
    if text := "\n\n".join(text for text in texts if text.strip()):
        parts.append(TextPart(text))
    return tuple(parts)


def _read_stdin(stdin: TextIO) -> bytes:
    buffer = getattr(stdin, "buffer", None)
    try:
        return buffer.read(MAX_ATTACHMENT_BYTES + 1) if buffer else stdin.read().encode()
    except OSError as error:
        message = f"Standard input cannot be read ({error.strerror})"
        raise AttachmentError(message, "Give the prompt as arguments") from error


class AskPresenter(TerminalPresenter):
    """Prints one turn, and at its end the document, the whole answer or the code block, and the remaining notices.

    previous_model: the model that answered the conversation so far, "" when there is none.
    """

    def __init__(
        self, diagnostics: Diagnostics, output: Output, *, stream: bool, show_reasoning: bool, previous_model: str
    ) -> None:
        super().__init__(diagnostics, output, stream=stream, show_reasoning=show_reasoning)
        self._previous_model, self._model = previous_model, ""
        self._code_report = CodeReport()
        self._samples: dict[int, TurnFinished] = {}
        self._vote_result: VoteResult | None = None
        self.finish_event: TurnFinished | None = None

    def on_model_ready(self, event: ModelReady) -> None:
        self._model = event.model.name
        if self._previous_model not in ("", self._model):
            self._diagnostics.print_notice(f"Switching from {self._previous_model} to {self._model} for this answer.")
        super().on_model_ready(event)

    def on_code_checked(self, event: CodeChecked) -> None:
        self._code_report = event.report

    def on_sample_finished(self, event: SampleFinished) -> None:
        self._samples[event.index] = event.reply

    def on_vote_result(self, event: VoteResult) -> None:
        self._vote_result = event

    def on_turn_finished(self, event: TurnFinished) -> None:
        self.finish_event = event

    def print_end(self, conversation_id: str | None, *, as_json: bool, extract: bool, usage: bool) -> None:
        """Print the document or the whole answer, then the notices. Raises StdoutClosed."""
        finished, diagnostics = self.finish_event, self._diagnostics
        assert finished is not None
        diagnostics.end_reasoning()
        diagnostics.clear_progress()
        if as_json:
            self._output.write_json(self._to_document(finished, conversation_id))
        elif extract:
            from phichat.codecheck.blocks import find_fenced_code

            self._output.write_text(next(iter(find_fenced_code(finished.text)), finished.text))
        elif self._stream:
            self._output.end_text()
        else:
            self._output.write_text(finished.text)
        notices = [*self._code_report.warnings]
        if self._vote_result:
            from phichat.chat.vote.majority import format_result

            notices.insert(0, format_result(self._vote_result))
        if usage and finished.usage.prompt_tokens:
            notices.append(_format_usage(finished))
        used = finished.usage.prompt_tokens + finished.usage.completion_tokens
        if finished.finish_reason is FinishReason.LENGTH and used > finished.n_ctx > 0:
            context = f"the {finished.n_ctx:,}-token context is full"
            notices.append(f"The answer was cut off: {context}. Use a larger --ctx-size.")
        notices += finished.notices
        if conversation_id and diagnostics.is_terminal:
            notices.append(f"Continue with `phichat ask --cid {conversation_id}`.")
        diagnostics.print_notice(*notices)

    def _to_document(self, finished: TurnFinished, conversation_id: str | None) -> dict[str, object]:
        document: dict[str, object] = {
            "conversation_id": conversation_id,
            "model": self._model,
            "text": finished.text,
            "reasoning": finished.reasoning,
            "finish_reason": finished.finish_reason,
            "seed": finished.seed,
            "usage": asdict(finished.usage),
            "timings": asdict(finished.timings),
            "context": {"n_ctx": finished.n_ctx, "dropped_turns": finished.dropped_turns},
            "code": self._code_report.to_dict(),
        }
        if self._vote_result:
            from phichat.chat.vote.majority import to_document

            document["vote"] = to_document(self._vote_result, self._samples)
        return document

    def exit_code(self, *, strict: bool) -> ExitCode:
        """Return the exit code of a turn that raised nothing."""
        if self.finish_event is None or self.finish_event.finish_reason is FinishReason.CANCELLED:
            return ExitCode.INTERRUPTED
        return ExitCode.CODE_WARNING if strict and self._code_report.warnings else ExitCode.DONE


def _format_usage(finished: TurnFinished) -> str:
    usage, timings = finished.usage, finished.timings
    extra_times = f", waiting {timings.wait_s:.2f} s" if timings.wait_s >= 0.005 else ""
    extra_times += f", restoring {timings.restore_s:.2f} s" if timings.restore_s >= 0.005 else ""
    return (
        f"{usage.prompt_tokens:,} prompt tokens ({usage.cached_tokens:,} cached) in {timings.prompt_s:.2f} s, "
        f"{usage.completion_tokens:,} generated in {timings.generation_s:.2f} s, "
        f"{timings.tokens_per_second:.1f} tokens/s; loading took {timings.load_s:.2f} s{extra_times}"
    )
