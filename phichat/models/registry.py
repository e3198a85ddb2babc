"""The models that phichat knows by name: models.toml, and the user's own file of the same form."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from phichat.code_report import TrainingScope
from phichat.config.settings import parse_option
from phichat.errors import ConfigError, ModelNotInstalled, UsageError
from phichat.types import SamplingParams

# The descriptions complete the sentence "It must be ...".
_Text = Annotated[str, Meta(pattern=r"\S", description="a text")]
_Texts = Annotated[tuple[_Text, ...], Meta(description="a list of texts")]
_Count = Annotated[int, Meta(gt=0, description="a whole number above 0")]
_Repository = Annotated[str, Meta(pattern=r"^[\w.-]+/[\w.-]+$", description="the name of a repository, as owner/name")]
_FILE_PATTERN = r"(?i)^(?!/)(?!(?:.*/)?\.\.(?:/|$))[^\\]+\.gguf$"
_File = Annotated[str, Meta(pattern=_FILE_PATTERN, description="the path of a .gguf file in the repository")]
_Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}$", description="64 hexadecimal digits")]
_Commit = Annotated[str, Meta(pattern=r"^[0-9a-f]{40}$", description="a commit of 40 hexadecimal digits")]


class CodeScope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Languages and modules that the model card states the code in the training data is mostly of."""

    languages: _Texts = ()
    modules: _Texts = ()


class ModelSpec(msgspec.Struct, frozen=True):
    """One entry; unknown texts are "", unknown numbers 0.

    repository, file, revision: location on the hub; file is the first part of a split model, revision a commit.
    size, sha256: of that file, size in bytes. Without a revision the repository may have replaced the file since,
    so the hub's own answer takes precedence.
    context_length: tokens the model was trained for. sampling: options of SamplingParams that suit it.
    package: an installed Python package that contains the file.
    """

    name: str
    repository: _Repository
    file: _File
    title: _Text = ""
    revision: _Commit = ""
    quantization: _Text = ""
    size: _Count = msgspec.field(name="bytes", default=0)
    sha256: _Sha256 = ""
    licence: _Text = ""
    context_length: _Count = 0
    summary: _Text = ""
    aliases: _Texts = ()
    sampling: Annotated[dict[str, Any], Meta(description="a table such as { temperature = 0.8 }")] = {}
    code: Annotated[CodeScope | None, Meta(description="a table of the lists languages and modules")] = None
    package: _Text = ""

    @property
    def scope(self) -> TrainingScope | None:
        """Code in the training data, as the model card describes it."""
        return TrainingScope(self.code.languages, self.code.modules) if self.code else None

    def matches_name(self, name: str) -> bool:
        """Return whether that is its name or an alias, in upper or lower case."""
        return name.lower() in (self.name.lower(), *(alias.lower() for alias in self.aliases))


def find_spec(registry: Mapping[str, ModelSpec], name: str) -> ModelSpec | None:
    """Return the entry with that name or alias."""
    return next((spec for spec in registry.values() if spec.matches_name(name)), None)


def unknown_model_error(query: str, names: Iterable[str]) -> ModelNotInstalled:
    """Return the error for a name that no model has; it suggests similar ones of names."""
    from difflib import get_close_matches

    by_lower = {name.lower(): name for name in names}
    close = [by_lower[match] for match in get_close_matches(query.lower(), by_lower, n=3)]
    hint = f"Try {', '.join(close)}" if close else "Run `phichat list` to see the installed models"
    return ModelNotInstalled(f"Unknown model {query!r}", hint)


def missing_file_error(path: str) -> ModelNotInstalled:
    """Return the error for a path that does not exist."""
    return ModelNotInstalled(f"No such file: {path}", "Check the path")


def read_registry(user_file: Path | None = None) -> Mapping[str, ModelSpec]:
    """Return the shipped entries and the user's own by name.

    A user's entry with a shipped name overrides the keys that it gives; with another repository or file, the
    facts about the shipped file are dropped. Raises ConfigError with file and line.
    """
    builtin = _read_builtin()
    try:
        user = _RegistryFile(str(user_file), user_file.read_bytes() if user_file else b"")
    except FileNotFoundError:
        return builtin.trusted_specs
    except OSError as error:
        raise ConfigError(f"{user_file} cannot be read ({error.strerror})", "Fix the file or move it away") from error
    specs = dict(builtin.trusted_specs)
    for name, table in user.tables.items():
        if not isinstance(table, dict):
            raise user.build_error("", name, "is not under a [NAME] table", "Move it under the [NAME] of a model")
        base = builtin.tables.get(name, {})
        if any(key in table and table[key] != base.get(key) for key in ("repository", "file")):
            file_keys = ("revision", "quantization", "bytes", "sha256", "package")
            base = {key: value for key, value in base.items() if key not in file_keys}
        specs[name] = user.parse_entry(name, base | table)
    return specs


@cache
def _read_builtin() -> _RegistryFile:
    # Read several times in a run, of which it is a good part when an engine is already running.
    # A checkout has the file next to the package.
    package, checkout = (folder / "models.toml" for folder in Path(__file__).parents[1:3])
    return _RegistryFile("models.toml", (package if package.is_file() else checkout).read_bytes())


class _RegistryFile:
    def __init__(self, source: str, content: bytes) -> None:
        self.source = source
        try:
            self.text = content.decode()
            self.tables: Mapping[str, Any] = tomllib.loads(self.text)
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise ConfigError(f"{source}, line {line}: this is not UTF-8", "Save the file as UTF-8") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{source} is not valid TOML ({error})", "Fix that line") from error

    @cached_property
    def trusted_specs(self) -> Mapping[str, ModelSpec]:
        # Without the schema of the settings, which takes several milliseconds to import.
        specs = {}
        for name, table in self.tables.items():
            sampling = table.get("sampling", {}).items()
            options = {key: tuple(value) if isinstance(value, list) else value for key, value in sampling}
            specs[name] = msgspec.convert({**table, "name": name, "sampling": options}, ModelSpec)
        return specs

    def parse_entry(self, name: str, table: Mapping[str, Any]) -> ModelSpec:
        types = {field.encode_name: field.type for field in msgspec.structs.fields(ModelSpec)[1:]}
        if unknown := [key for key in table if key not in types]:
            raise self.build_error(name, unknown[0], "is not a model setting", "Use one of " + ", ".join(types))
        if missing := [key for key in ("repository", "file") if key not in table]:
            raise self.build_error(name, "", f"has no {missing[0]}", f"Add a line {missing[0]} = ...")
        try:
            spec = msgspec.convert({**table, "name": name}, ModelSpec)
        except msgspec.ValidationError as error:
            key = next(key for key in table if re.search(rf"`\$\.{key}\b", str(error)))
            description = types[key].__metadata__[0].description
            raise self.build_error(name, key, f"cannot be {table[key]!r}", f"It must be {description}") from None
        sampling = self._parse_sampling(name, spec.sampling)
        return msgspec.structs.replace(spec, sha256=spec.sha256.lower(), sampling=sampling)

    def _parse_sampling(self, name: str, table: Mapping[str, Any]) -> dict[str, Any]:
        try:
            options = dict(parse_option(option, value) for option, value in table.items())
        except UsageError as error:
            raise self.build_error(name, "sampling", f"is invalid ({error.message})", error.next_step) from error
        allowed = sorted(option.name for option in fields(SamplingParams))
        if options.keys() - allowed:
            next_step = f"Use only {', '.join(allowed)}"
            raise self.build_error(name, "sampling", "has options that are not about sampling", next_step)
        return options

    def build_error(self, name: str, key: str, message: str, next_step: str) -> ConfigError:
        location = " ".join(part for part in (f"[{name}]" if name else "", key) if part)
        return ConfigError(f"{self.source}, line {self._find_line(name, key)}: {location} {message}", next_step)

    def _find_line(self, name: str, key: str) -> int:
        """Return the line, from 1, of a key in the table of that name, else of the table."""
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
