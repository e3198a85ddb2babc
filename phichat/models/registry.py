"""The curated list of models, models.toml, and what a user adds to it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

from phichat.code_report import TrainingScope
from phichat.config.settings import parse_option
from phichat.errors import ConfigError, UsageError
from phichat.types import SamplingParams


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
    scope: TrainingScope | None = None
    package: str | None = None

    def matches_name(self, name: str) -> bool:
        """Whether that is its name or an alias, in upper or lower case."""
        return name.lower() in (self.name.lower(), *(alias.lower() for alias in self.aliases))


def read_registry(user_file: Path | None = None) -> Mapping[str, ModelSpec]:
    """name -> entry, of the list that phichat ships and then of the user's own file, if there is one.

    An own entry under a shipped name overrides the keys it gives; with another repository or file, nothing
    that is said of the shipped file holds for it. Raises ConfigError naming file and line.
    """
    files = [_builtin()]
    if user_file is not None:
        try:
            files.append(_RegistryFile.from_bytes(str(user_file), user_file.read_bytes()))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise ConfigError(
                f"{user_file} cannot be read ({error.strerror})", "Mend the file or move it away"
            ) from error
    merged: dict[str, dict[str, Any]] = {}
    for file in files:
        for name, entry in file.entries.items():
            base, override = merged.get(name, {}), file.parse_entry(name, entry)
            if any(key in override and override[key] != base.get(key) for key in ("repository", "file")):
                base = {key: value for key, value in base.items() if key not in _FILE_SPECIFIC_KEYS}
            merged[name] = base | override
            for key in ("repository", "file"):
                if key not in merged[name]:
                    raise file.build_error(name, "", f"has no {key}", f"add a line {key} = ...")
    return {name: ModelSpec(name, **entry) for name, entry in merged.items()}


@cache
def _builtin() -> _RegistryFile:
    # Asked for several times in a run, of which reading it is a good part where the engine is there already.
    path = Path(__file__).parents[1] / "models.toml"
    if not path.is_file():
        # A checkout keeps the list beside the package, where people look for it.
        path = Path(__file__).parents[2] / "models.toml"
    return _RegistryFile.from_bytes("models.toml", path.read_bytes())


_FILE_SPECIFIC_KEYS = ("revision", "quantization", "size", "sha256", "package")


@dataclass(frozen=True, slots=True)
class _RegistryFile:
    source: str
    text: str
    entries: Mapping[str, Any]

    @classmethod
    def from_bytes(cls, source: str, content: bytes) -> _RegistryFile:
        try:
            text = content.decode("utf-8")
            return cls(source, text, tomllib.loads(text))
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise ConfigError(f"{source}, line {line}: this is no UTF-8 text", "Save the file as UTF-8") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{source} is no valid TOML ({error})", "Mend that line") from error

    def parse_entry(self, name: str, entry: object) -> dict[str, Any]:
        if not isinstance(entry, dict):
            raise self.build_error("", name, "stands outside of any model", "put it under a line [NAME]")
        values = {}
        for key, value in entry.items():
            if key not in _PARSERS:
                raise self.build_error(name, key, "is no key of a model", "use one of " + ", ".join(_PARSERS))
            field_name, parser = _PARSERS[key]
            try:
                values[field_name] = parser(value)
            except UsageError as error:
                raise self.build_error(name, key, f"is wrong ({error.message})", error.next_step) from error
            except (ValueError, TypeError, KeyError, AttributeError):
                raise self.build_error(name, key, f"cannot be {value!r}", f"give it {parser.__doc__}") from None
        return values

    def build_error(self, name: str, key: str, message: str, next_step: str) -> ConfigError:
        location = " ".join(part for part in (f"[{name}]" if name else "", key) if part)
        return ConfigError(f"{self.source}, line {self._find_line(name, key)}: {location} {message}", next_step)

    def _find_line(self, name: str, key: str) -> int:
        """Of a key in the table of that name, else of the table; from 1."""
        lines = self.text.splitlines()
        header = re.compile(r"""\s*\[\s*["']?""" + re.escape(name) + r"""["']?\s*[\].]""")
        start = next((at for at, line in enumerate(lines) if header.match(line)), 0) if name else 0
        key_pattern = re.compile(r"""\s*\[?[^=\]]*(?<![\w-])""" + re.escape(key) + r"""["']?\s*[=.\]]""")
        for index in range(start, len(lines)):
            if key and key_pattern.match(lines[index]):
                return index + 1
            if index > start and name and re.match(r"\s*\[", lines[index]) and not header.match(lines[index]):
                break
        return start + 1


def _parse_text(value: object) -> str:
    """a text"""
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    return value


def _parse_texts(value: object) -> tuple[str, ...]:
    """a list of texts"""
    if not isinstance(value, list):
        raise ValueError
    return tuple(_parse_text(item) for item in value)


def _parse_count(value: object) -> int:
    """a whole number above 0"""
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError
    return value


def _parse_repository(value: object) -> str:
    """the owner and the name of a repository, as in owner/name"""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", _parse_text(value)):
        raise ValueError
    return str(value)


def _parse_file(value: object) -> str:
    """the path of a .gguf file in the repository"""
    path = _parse_text(value)
    if not path.lower().endswith(".gguf") or path.startswith("/") or "\\" in path or ".." in path.split("/"):
        raise ValueError
    return path


def _parse_sha256(value: object) -> str:
    """64 hexadecimal digits"""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", _parse_text(value)):
        raise ValueError
    return str(value).lower()


def _parse_revision(value: object) -> str:
    """a commit of 40 hexadecimal digits"""
    if not re.fullmatch(r"[0-9a-f]{40}", _parse_text(value)):
        raise ValueError
    return str(value)


def _parse_sampling(value: object) -> Mapping[str, Any]:
    """a table of sampling options, such as { temperature = 0.8 }"""
    if not isinstance(value, dict):
        raise ValueError
    options = dict(parse_option(name, setting) for name, setting in value.items())
    allowed = {option.name for option in fields(SamplingParams)}
    if not options.keys() <= allowed:
        raise UsageError("not all of it is about sampling", "use only " + ", ".join(sorted(allowed)))
    return options


def _parse_scope(value: object) -> TrainingScope:
    """a table of languages and modules"""
    if not isinstance(value, dict) or not value.keys() <= {"languages", "modules"}:
        raise ValueError
    return TrainingScope(_parse_texts(value.get("languages", [])), _parse_texts(value.get("modules", [])))


_PARSERS: Mapping[str, tuple[str, Callable[[object], Any]]] = {
    "title": ("title", _parse_text),
    "repository": ("repository", _parse_repository),
    "revision": ("revision", _parse_revision),
    "file": ("file", _parse_file),
    "quantization": ("quantization", _parse_text),
    "bytes": ("size", _parse_count),
    "sha256": ("sha256", _parse_sha256),
    "licence": ("licence", _parse_text),
    "context_length": ("context_length", _parse_count),
    "summary": ("summary", _parse_text),
    "aliases": ("aliases", _parse_texts),
    "sampling": ("sampling", _parse_sampling),
    "code": ("scope", _parse_scope),
    "package": ("package", _parse_text),
}
