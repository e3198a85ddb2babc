"""Every error that phichat raises on purpose.

    PhichatError                 one sentence about what happened, and the next thing to try
    ├── UsageError               the command was not understood
    ├── ConfigError              config.toml or an environment variable holds something unusable
    ├── AttachmentError          a file named with -f cannot be put into a prompt
    ├── CheckInputError          what `phichat check` is given cannot be read as an answer or as code
    ├── OutputError              the answer cannot be written where it should go
    ├── ModelNotInstalled        the name or the path leads to no model
    ├── ModelFileError           the file is there, but is no usable chat model
    ├── ModelKept                the model is not phichat's to remove
    ├── ModelChoiceError         a repository has no file, or several, that could be meant
    ├── HubError                 the hub does not give what was asked for
    │   ├── HubUnreachable       it cannot be reached, or may not be
    │   └── AccessDenied         the files are given only to those who accepted their terms
    ├── DownloadError            a download ended early; what came is kept
    │   ├── HashMismatch         what came is not what was promised, and is not kept
    │   └── StorageError         the disk is full, or may not be written
    ├── ModelDoesNotFit          the model, or its KV cache, needs more memory than there is
    ├── ContextOverflow          the prompt needs more tokens than the context has
    ├── TemplateError            the chat template of the model cannot render these messages
    ├── TranscriptError          the transcripts cannot be read or written
    │   ├── ConversationNotFound no conversation, or more than one, goes by that id
    │   └── TranscriptFileError  a file is no transcript that can be imported
    ├── ExtraNotInstalled        a package that only some need is not here
    ├── ServeError               the address of `phichat serve` cannot be listened at
    ├── RequestRefused           a client of `phichat serve` asks for what it does not get
    └── EngineError              the engine process failed
        ├── EngineLoadFailed     llama.cpp refused the file
        ├── EngineCrashed        the process died
        ├── EngineTimedOut       the process stopped answering
        └── EndpointError        a server does not do what was asked
            ├── EndpointUnreachable  nothing answers there, or not any more
            └── EndpointDenied   it does not take the key

Front ends turn them into text and an exit code in one place each; nothing else catches them.
"""

from __future__ import annotations

from collections.abc import Mapping


class PhichatError(Exception):
    """Error with a remedy: `str()` gives two sentences, what happened and what to do.

    message: what happened, without the full stop.
    next_step: what the user can do, an imperative sentence without the full stop.
    detail: the text of the library's own error, possibly several lines; shown with --debug.
    """

    def __init__(self, message: str, next_step: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step
        self.detail = detail

    def __str__(self) -> str:
        end = "" if self.next_step.endswith("?") else "."
        return f"{self.message}. {self.next_step[:1].upper()}{self.next_step[1:]}{end}"


class UsageError(PhichatError):
    """The command was not understood."""


class ConfigError(PhichatError):
    """A setting from a file or from the environment cannot be used."""


class AttachmentError(PhichatError):
    """An attached file cannot be put into a prompt."""


class CheckInputError(PhichatError):
    """An answer or a file of code cannot be read."""


class OutputError(PhichatError):
    """The answer cannot be written where it should go."""


class ModelNotInstalled(PhichatError):
    """The name or the path leads to no model on this machine."""


class ModelFileError(PhichatError):
    """The file is no usable chat model."""


class ModelNotRemovable(PhichatError):
    """The model is not phichat's to remove, or the system refuses to remove it."""


class AmbiguousModelError(PhichatError):
    """A repository has no file, or several, that could be meant."""


class HubError(PhichatError):
    """The hub does not give what was asked for."""


class HubUnreachable(HubError):
    """The hub cannot be reached, or may not be."""


class AccessDenied(HubError):
    """The files are given only to those who accepted their terms, or were let in."""


class DownloadError(PhichatError):
    """A download ended before it was complete; what came is kept."""


class HashMismatch(DownloadError):
    """What came is not what was promised; it is not kept."""


class StorageError(DownloadError):
    """What came cannot be written."""


class ModelDoesNotFit(PhichatError):
    """The model needs more memory than this machine has."""


class ContextOverflow(PhichatError):
    """The prompt alone is larger than the context.

    prompt_tokens, n_ctx: both in tokens.
    """

    def __init__(self, prompt_tokens: int, n_ctx: int) -> None:
        super().__init__(
            f"The prompt has {prompt_tokens:,} tokens and the context holds {n_ctx:,}",
            "shorten it, or ask for a larger context with --ctx-size",
        )
        self.prompt_tokens = prompt_tokens
        self.n_ctx = n_ctx


class RemoteContextOverflow(ContextOverflow):
    """A server says that the prompt is larger than its context.

    prompt_tokens, n_ctx: 0 where it does not tell.
    """

    def __init__(self, endpoint: str, prompt_tokens: int, n_ctx: int, *, detail: str = "") -> None:
        prompt = f"The prompt has {prompt_tokens:,} tokens" if prompt_tokens else "The prompt is too long"
        context = f"the context of {endpoint} holds {n_ctx:,}" if n_ctx else f"{endpoint} does not take it"
        PhichatError.__init__(
            self, f"{prompt} and {context}", "shorten it, or start the server with a larger context", detail=detail
        )
        self.prompt_tokens = prompt_tokens
        self.n_ctx = n_ctx


class TemplateError(PhichatError):
    """The chat template of the model cannot render these messages."""


class TranscriptError(PhichatError):
    """The transcripts cannot be read or written."""


class ConversationNotFound(TranscriptError):
    """No conversation goes by that id, or several do.

    candidates: the ids of some that do, the newest first.
    """

    def __init__(self, message: str, next_step: str, *, candidates: tuple[str, ...] = ()) -> None:
        super().__init__(message, next_step)
        self.candidates = candidates


class TranscriptFileError(TranscriptError):
    """A file is no transcript that can be imported."""


class ExtraNotInstalled(PhichatError):
    """A package that only some need is not installed."""


class ServerBindError(PhichatError):
    """`phichat serve` cannot listen where it should."""


class ApiError(PhichatError):
    """A client of `phichat serve` asks for what it does not get.

    status: of HTTP. code: the word that programs look for. param: the field of the request that is at fault.
    retry_after: seconds after which asking again may help. facts: what else programs may want to know.
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
    """The engine process died without being asked to.

    is_fault: the CPU refused an instruction or an address, as opposed to an abort or a kill.
    """

    def __init__(self, message: str, next_step: str, *, detail: str = "", is_cpu_fault: bool = False) -> None:
        super().__init__(message, next_step, detail=detail)
        self.is_cpu_fault = is_cpu_fault


class EngineTimedOut(EngineError):
    """The engine process stopped answering and was stopped."""


class EndpointError(EngineError):
    """A server does not do what was asked."""


class EndpointUnreachable(EndpointError):
    """Nothing answers at the endpoint's address, or not any more."""


class EndpointAuthError(EndpointError):
    """The server does not take the key."""
