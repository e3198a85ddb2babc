"""The errors that phichat raises on purpose.

Front ends turn them into text and an exit code in one place each; nothing else catches PhichatError itself.
"""

from collections.abc import Mapping


class PhichatError(Exception):
    """Error with a remedy: `str()` gives two sentences, what happened and what to do.

    message: what happened, without the full stop.
    next_step: what the user can do, an imperative sentence without the full stop.
    detail: the text of the library's own error, possibly several lines; shown with --debug.
    """

    def __init__(self, message: str, next_step: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.message, self.next_step, self.detail = message, next_step, detail

    def __str__(self) -> str:
        end = "" if self.next_step.endswith("?") else "."
        return f"{self.message}. {self.next_step[:1].upper()}{self.next_step[1:]}{end}"


class UsageError(PhichatError):
    """The command line or a request for a feature is not valid."""


class ConfigError(PhichatError):
    """A setting in config.toml, models.toml or the environment is not valid."""


class AttachmentError(PhichatError):
    """A file cannot be attached to a prompt."""


class CheckInputError(PhichatError):
    """The input of `phichat check` cannot be read."""


class OutputError(PhichatError):
    """The output cannot be written."""


class ModelNotInstalled(PhichatError):
    """No installed model has this name or path."""


class ModelFileError(PhichatError):
    """The file is not a usable chat model."""


class ModelNotRemovable(PhichatError):
    """The model does not belong to phichat, or the system does not let it be removed."""


class AmbiguousModelError(PhichatError):
    """No file of a repository, or more than one, matches."""


class HubError(PhichatError):
    """The hub refused a request or sent an invalid response."""


class HubUnreachable(HubError):
    """The hub cannot be reached, or offline mode is on."""


class AccessDenied(HubError):
    """The repository is gated or private, and this user has no access."""


class DownloadError(PhichatError):
    """A download ended early; the partial file is kept."""


class HashMismatch(DownloadError):
    """The downloaded file does not match its SHA-256, and was deleted."""


class StorageError(DownloadError):
    """The disk is full or not writable."""


class ModelDoesNotFit(PhichatError):
    """The model, or its KV cache, needs more memory than this machine has."""


class ContextOverflow(PhichatError):
    """The prompt alone does not fit the context.

    prompt_tokens, n_ctx: in tokens, 0 where a server does not report them. endpoint: "" for a model on this machine.
    """

    def __init__(self, prompt_tokens: int, n_ctx: int, endpoint: str = "", *, detail: str = "") -> None:
        self.prompt_tokens, self.n_ctx = prompt_tokens, n_ctx
        prompt = f"The prompt is {prompt_tokens:,} tokens" if prompt_tokens else "The prompt is too long"
        owner = f" of {endpoint}" if endpoint else ""
        context = f", but the context{owner} holds {n_ctx:,}" if n_ctx else f" for {endpoint}"
        remedy = ", or start the server with a larger context" if endpoint else " or use a larger --ctx-size"
        super().__init__(prompt + context, f"Shorten it{remedy}", detail=detail)


class TemplateError(PhichatError):
    """The chat template of the model cannot render the messages."""


class TranscriptError(PhichatError):
    """The transcripts cannot be read or written."""


class ConversationNotFound(TranscriptError):
    """No conversation, or more than one, has an id that begins so.

    candidates: some of the matching ids, newest first.
    """

    def __init__(self, message: str, next_step: str, *, candidates: tuple[str, ...] = ()) -> None:
        super().__init__(message, next_step)
        self.candidates = candidates


class TranscriptFileError(TranscriptError):
    """A file is not a transcript that phichat can import."""


class ExtraNotInstalled(PhichatError):
    """A package of an optional extra is not installed."""


class ServerBindError(PhichatError):
    """`phichat serve` cannot listen on its address."""


class ApiError(PhichatError):
    """`phichat serve` refuses a request.

    status: HTTP status. code: error code of the OpenAI API. param: the request field at fault.
    retry_after: seconds until a retry may succeed. extra_fields: added to the error object.
    """

    def __init__(
        self,
        message: str,
        next_step: str,
        *,
        status: int = 400,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
        extra_fields: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(message, next_step)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after
        self.extra_fields = extra_fields or {}


class EngineError(PhichatError):
    """The engine process failed."""


class EngineLoadFailed(EngineError):
    """llama.cpp refused to load the file."""


class EngineCrashed(EngineError):
    """The engine process died unexpectedly.

    is_cpu_fault: the CPU refused an instruction or an address, as opposed to an abort or a kill.
    """

    def __init__(self, message: str, next_step: str, *, detail: str = "", is_cpu_fault: bool = False) -> None:
        super().__init__(message, next_step, detail=detail)
        self.is_cpu_fault = is_cpu_fault


class EngineTimedOut(EngineError):
    """The engine process did not respond in time and was stopped."""


class EndpointError(EngineError):
    """An endpoint's server refused a request or sent an invalid response."""


class EndpointUnreachable(EndpointError):
    """No server responds at the endpoint's address."""


class EndpointAuthError(EndpointError):
    """The server rejected the API key."""
