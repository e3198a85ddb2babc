"""References to models as users write them, parsed; nothing is looked up."""

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from phichat.errors import UsageError

_HUB_HOSTS = ("hf.co", "huggingface.co")
_SEGMENT = re.compile(r"(?!.*(?:--|\.\.))[A-Za-z0-9](?:[\w.-]{0,94}[\w-])?", re.ASCII)
_REVISION = re.compile(r"(?!.*\.\.)[\w][\w./+-]{0,199}", re.ASCII)
_QUANTIZATION = re.compile(r"[\w.-]{1,40}", re.ASCII)
_PATH_LIKE = re.compile(r"[./~\\]|[A-Za-z]:[\\/]")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_ACCEPTED_FORMS = "Give a registry name, owner/repo, owner/repo:QUANT, owner/repo/file.gguf, an https URL or a path"


@dataclass(frozen=True, slots=True)
class RegistryName:
    """Name or alias from models.toml. quantization: "" for the one that the entry names."""

    name: str
    quantization: str = ""


@dataclass(frozen=True, slots=True)
class RepoSpec:
    """Model in a hub repository; "" for what was not given. file: a path in it, a folder if it ends in a slash."""

    repository: str
    quantization: str = ""
    file: str = ""
    revision: str = ""


@dataclass(frozen=True, slots=True)
class UrlSpec:
    """GGUF file on any server."""

    url: str


@dataclass(frozen=True, slots=True)
class PathSpec:
    """File on this machine."""

    path: str


ModelReference = RegistryName | RepoSpec | UrlSpec | PathSpec


def parse_reference(text: str, endpoint: str = "") -> ModelReference:
    """Parse a reference. endpoint: base URL of the hub if it is not the default. Raises UsageError."""
    text = text.strip()
    if not text or any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise UsageError(f"{text!r} is not a model", _ACCEPTED_FORMS)
    if (match := _SCHEME.match(text)) is None:
        host, _, rest = text.partition("/")
        is_hub = rest and host.lower().removeprefix("www.") in _HUB_HOSTS
        return _parse_hub_url("https://" + text) if is_hub else _parse_name(text)
    scheme = match[1].lower()
    if scheme == "hf":
        return _parse_name(text[match.end() :].removeprefix("models/"))
    if scheme not in ("http", "https", "file"):
        raise UsageError(f"{scheme}:// is not supported", _ACCEPTED_FORMS)
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port  # raises ValueError for a port that is not a number
    except ValueError:
        raise UsageError(f"{text!r} is not a valid URL", _ACCEPTED_FORMS) from None
    if scheme == "file":
        return PathSpec(unquote(parts.path))
    if not host:
        raise UsageError(f"{text!r} has no host", _ACCEPTED_FORMS)
    is_hub = parts.netloc.lower().removeprefix("www.") in (*_HUB_HOSTS, urlsplit(endpoint).netloc.lower())
    return _parse_hub_url(text) if is_hub else UrlSpec(text)


def _parse_name(text: str) -> ModelReference:
    segments, is_file = text.split("/"), text.lower().endswith(".gguf")
    if _PATH_LIKE.match(text) or "\\" in text or (is_file and len(segments) < 3):
        return PathSpec(text)
    if len(segments) == 1:
        name, _, quantization = text.partition(":")
        return RegistryName(name, _parse_quantization(quantization))
    # A revision follows the repository or the whole path: both are in use.
    owner, repository, path = segments[0], segments[1], "/".join(segments[2:])
    revision = quantization = ""
    if "@" in path:
        path, _, revision = path.rpartition("@")
    elif "@" in repository:
        repository, _, revision = repository.partition("@")
        if not is_file and path:
            revision, path = f"{revision}/{path}", ""
    if not path:
        repository, colon, quantization = repository.partition(":")
        if not colon:
            revision, _, quantization = revision.partition(":")
    return _build_repo_spec(owner, repository, path, revision, quantization)


def _parse_hub_url(url: str) -> RepoSpec:
    parts = urlsplit(url)
    segments = [unquote(segment) for segment in parts.path.split("/") if segment]
    if len(segments) < 2 or segments[0] in ("datasets", "spaces", "collections", "api"):
        raise UsageError(f"{url} is not a model page", "Give the URL of the model's page or of its GGUF file")
    owner, (repository, _, quantization), rest = segments[0], segments[1].partition(":"), segments[2:]
    file, revision = "", ""
    if len(rest) >= 2 and rest[0] in ("blob", "resolve", "raw", "tree"):
        # A revision with a slash in it (refs/pr/1) is one escaped segment.
        revision, file = rest[1], "/".join(rest[2:])
        if rest[0] == "tree" and file:
            file += "/"
    elif rest and rest[-1].lower().endswith(".gguf"):
        file = "/".join(rest)
    if not file and (file_info := parse_qs(parts.query).get("show_file_info")):
        file = file_info[0]
    return _build_repo_spec(owner, repository, file, "" if revision == "main" else revision, quantization)


def _build_repo_spec(owner: str, repository: str, file: str, revision: str, quantization: str) -> RepoSpec:
    if not _SEGMENT.fullmatch(owner) or not _SEGMENT.fullmatch(repository):
        raise UsageError(f"{f'{owner}/{repository}'!r} is not a repository name", _ACCEPTED_FORMS)
    if revision and not _REVISION.fullmatch(revision):
        raise UsageError(f"{revision!r} is not a revision", "Give a branch, a tag or a commit after the @")
    if file and not is_safe_path(file.removesuffix("/")):
        raise UsageError(f"{file!r} is not a path in a repository", _ACCEPTED_FORMS)
    if file and not file.endswith("/") and not file.lower().endswith(".gguf"):
        raise UsageError(f"{file!r} is not a GGUF file", "Name a file that ends in .gguf, or only the repository")
    return RepoSpec(f"{owner}/{repository}", _parse_quantization(quantization), file, revision)


def _parse_quantization(text: str) -> str:
    if text and not _QUANTIZATION.fullmatch(text):
        raise UsageError(f"{text!r} is not a quantization", "Give one such as Q4_K_M after the colon")
    return "" if text.lower() == "latest" else text


def is_safe_path(path: str) -> bool:
    """Return whether an untrusted path stays inside the folder that it is joined to, on every system."""
    return (
        0 < len(path) < 1024
        and not any(char in '\\:*?"<>|\x7f' or ord(char) < 32 for char in path)
        and all(segment and segment[-1] not in ". " for segment in path.split("/"))
    )
