"""Errors that end a request in the engine process, which goes on."""

from phichat.engine.ipc.protocol import ErrorCode


class RequestFailed(Exception):
    """A request that is answered with an ErrorReply. prompt_tokens: of a prompt that is too long, else 0."""

    def __init__(self, code: ErrorCode, message: str, prompt_tokens: int = 0) -> None:
        super().__init__(message)
        self.code, self.prompt_tokens = code, prompt_tokens


class TemplateRejected(RequestFailed):
    """A chat template that cannot render the messages; the message is the template's own."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.TEMPLATE, message)
