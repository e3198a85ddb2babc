"""The curated list of models, models.toml, and what a user adds to it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from phichat.code_report import CodeScope
from phichat.config import read_option
from phichat.errors import ConfigError, UsageError
from phichat.messages import GenerationParams


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One entry; texts that are not known are "", numbers 0.

    repository, file, revision: where it is on the hub; of a split model the first part, revision a commit.
    size, sha256: of that file; size in bytes. Without a revision, the repository may have replaced the
    file since, so what the hub says comes first.
    context_length: tokens the model was trained for. sampling: options of GenerationParams that suit it.
    scope: what its card says its code was trained on. package: an installed Python package that carries the file.
    """

    name: str
    repository: str
    file: str
    title: str = ""
    revision: str = ""
    quantization: str = ""
    size: int = 0
    sha256: str = ""
    licence: str = ""
    context_length: int = 0
    summary: str = ""
    aliases: tuple[str, ...] = ()
    sampling: Mapping[str, Any] = field(default_factory=dict)
    scope: CodeScope | None = None
    package: str | None = None

    def is_called(self, name: str) -> bool:
        """Whether that is its name or an alias, in upper or lower case."""
        return name.lower() in (self.name.lower(), *(alias.lower() for alias in self.aliases))


def read_registry(own: Path | None = None) -> Mapping[str, ModelSpec]:
    """name -> entry, of the list that phichat ships and then of the user's own file, if there is one.

    An own entry under a shipped name overrides the keys it gives; with another repository or file, nothing
    that is said of the shipped file holds for it. Raises ConfigError naming file and line.
    """
    lists = [_shipped()]
    if own is not None:
        try:
            lists.append(_List.read(str(own), own.read_bytes()))
        except FileNotFoundError:
            pass
        except OSError as why:
            raise ConfigError(f"{own} cannot be read ({why.strerror})", "mend the file or move it away") from why
    found: dict[str, dict[str, Any]] = {}
    for each in lists:
        for name, entry in each.entries.items():
            before, now = found.get(name, {}), each.checked(name, entry)
            if any(key in now and now[key] != before.get(key) for key in ("repository", "file")):
                before = {key: value for key, value in before.items() if key not in _OF_THE_FILE}
            found[name] = before | now
            for key in ("repository", "file"):
                if key not in found[name]:
                    raise each.mistake(name, "", f"has no {key}", f"add a line {key} = ...")
    return {name: ModelSpec(name, **entry) for name, entry in found.items()}


@cache
def _shipped() -> _List:
    # Asked for several times in a run, of which reading it is a good part where the engine is there already.
    path = Path(__file__).parents[1] / "models.toml"
    if not path.is_file():
        # A checkout keeps the list beside the package, where people look for it.
        path = Path(__file__).parents[2] / "models.toml"
    return _List.read("models.toml", path.read_bytes())


_OF_THE_FILE = ("revision", "quantization", "size", "sha256", "package")


@dataclass(frozen=True, slots=True)
class _List:
    where: str
    text: str
    entries: Mapping[str, Any]

    @classmethod
    def read(cls, where: str, content: bytes) -> _List:
        try:
            text = content.decode("utf-8")
            return cls(where, text, tomllib.loads(text))
        except UnicodeDecodeError as why:
            line = content[: why.start].count(b"\n") + 1
            raise ConfigError(f"{where}, line {line}: this is no UTF-8 text", "save the file as UTF-8") from why
        except tomllib.TOMLDecodeError as why:
            raise ConfigError(f"{where} is no valid TOML ({why})", "mend that line") from why

    def checked(self, name: str, entry: object) -> dict[str, Any]:
        if not isinstance(entry, dict):
            raise self.mistake("", name, "stands outside of any model", "put it under a line [NAME]")
        values = {}
        for key, value in entry.items():
            if key not in _READERS:
                raise self.mistake(name, key, "is no key of a model", "use one of " + ", ".join(_READERS))
            target, reader = _READERS[key]
            try:
                values[target] = reader(value)
            except UsageError as why:
                raise self.mistake(name, key, f"is wrong ({why.message})", why.next_step) from why
            except (ValueError, TypeError, KeyError, AttributeError):
                raise self.mistake(name, key, f"cannot be {value!r}", f"give it {reader.__doc__}") from None
        return values

    def mistake(self, name: str, key: str, what: str, next_step: str) -> ConfigError:
        named = " ".join(part for part in (f"[{name}]" if name else "", key) if part)
        return ConfigError(f"{self.where}, line {self._line(name, key)}: {named} {what}", next_step)

    def _line(self, name: str, key: str) -> int:
        """Of a key in the table of that name, else of the table; from 1."""
        lines = self.text.splitlines()
        header = re.compile(r"""\s*\[\s*["']?""" + re.escape(name) + r"""["']?\s*[\].]""")
        start = next((at for at, line in enumerate(lines) if header.match(line)), 0) if name else 0
        wanted = re.compile(r"""\s*\[?[^=\]]*(?<![\w-])""" + re.escape(key) + r"""["']?\s*[=.\]]""")
        for at in range(start, len(lines)):
            if key and wanted.match(lines[at]):
                return at + 1
            if at > start and name and re.match(r"\s*\[", lines[at]) and not header.match(lines[at]):
                break
        return start + 1


def _text(value: object) -> str:
    """a text"""
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    return value


def _texts(value: object) -> tuple[str, ...]:
    """a list of texts"""
    if not isinstance(value, list):
        raise ValueError
    return tuple(_text(item) for item in value)


def _count(value: object) -> int:
    """a whole number above 0"""
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError
    return value


def _repository(value: object) -> str:
    """the owner and the name of a repository, as in owner/name"""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", _text(value)):
        raise ValueError
    return str(value)


def _file(value: object) -> str:
    """the path of a .gguf file in the repository"""
    path = _text(value)
    if not path.lower().endswith(".gguf") or path.startswith("/") or "\\" in path or ".." in path.split("/"):
        raise ValueError
    return path


def _sha256(value: object) -> str:
    """64 hexadecimal digits"""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", _text(value)):
        raise ValueError
    return str(value).lower()


def _revision(value: object) -> str:
    """a commit of 40 hexadecimal digits"""
    if not re.fullmatch(r"[0-9a-f]{40}", _text(value)):
        raise ValueError
    return str(value)


def _sampling(value: object) -> Mapping[str, Any]:
    """a table of sampling options, such as { temperature = 0.8 }"""
    if not isinstance(value, dict):
        raise ValueError
    options = dict(read_option(name, setting) for name, setting in value.items())
    known = {option.name for option in fields(GenerationParams)}
    if not options.keys() <= known:
        raise UsageError("not all of it is about sampling", "use only " + ", ".join(sorted(known)))
    return options


def _scope(value: object) -> CodeScope:
    """a table of languages and modules"""
    if not isinstance(value, dict) or not value.keys() <= {"languages", "modules"}:
        raise ValueError
    return CodeScope(_texts(value.get("languages", [])), _texts(value.get("modules", [])))


_READERS: Mapping[str, tuple[str, Callable[[object], Any]]] = {
    "title": ("title", _text),
    "repository": ("repository", _repository),
    "revision": ("revision", _revision),
    "file": ("file", _file),
    "quantization": ("quantization", _text),
    "bytes": ("size", _count),
    "sha256": ("sha256", _sha256),
    "licence": ("licence", _text),
    "context_length": ("context_length", _count),
    "summary": ("summary", _text),
    "aliases": ("aliases", _texts),
    "sampling": ("sampling", _sampling),
    "code": ("scope", _scope),
    "package": ("package", _text),
}
