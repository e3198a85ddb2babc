"""The distributions that commands in an answer install.

conda is left out: its packages come from another index, where other names are right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_PROGRAM = (
    r"(?:(?:python|py)[\d.]*(?: +-[\d.]+)? +(?:-\w+ +)*?-m +)?"
    r"(?:pip[\d.]* +(?:-\S+ +)*install|uv +pip +install|uv +add|uv +tool +(?:install|run)|uvx"
    r"|pipx +(?:install|run|inject)|poetry +add|pdm +add|rye +add|pipenv +install|easy_install)"
)
_COMMAND = re.compile(
    r"(?:^|[|&;(]|\bRUN\b)\s*(?:[$#>%!] *)?(?:PS [^>\n]{0,100}> *|\([\w.-]+\) *[$#>]? *|[A-Za-z]:\\[^>\n]{0,100}> *"
    r"|[\w.@~/:-]{1,80}[$#] +)?"
    r"(?:(?:sudo|!|%|exec|time)(?: +-\w+)* *)*(?:\w+=\S* +)*" + rf"({_PROGRAM})\b(?![\w-])([^|&;\n]*)"
)
_WITH_VALUE = frozenset((
    "-r", "--requirement", "--requirements", "-c", "--constraint", "--constraints", "--channel", "-i",
    "--index-url", "--extra-index-url", "--index", "--default-index", "-f", "--find-links", "-t", "--target", "-e",
    "--editable", "--python", "-p", "--group", "-G", "--proxy", "--trusted-host", "--timeout", "--platform",
    "--python-version", "--implementation", "--abi", "--prefix", "--root", "--src", "--no-binary", "--only-binary",
    "--upgrade-strategy", "--cache-dir", "--progress-bar", "--report", "-C", "--config-settings", "--extra",
    "--extras", "-E", "--source", "-n", "--name", "--global-option", "--install-option", "--retries", "--log",
    "--cert", "--client-cert", "--tag", "--branch", "--rev", "--suffix", "--pip-args", "--override", "--file",
    "--spec", "--from-file",
))  # fmt: skip
_REQUIREMENT = re.compile(r"([A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)(?:\[[^\]]*\])?(?:(?:[=<>!~@^;]|\Z).*)?", re.DOTALL)
_PLACEHOLDER = re.compile(
    r"(?:your|my|some|the)?[-_]?(?:package|library|module|lib|project|distribution|dependency|dependencies|pkg)"
    r"(?:s|[-_]?names?|[-_]?\d|here)?",
    re.IGNORECASE,
)
_PROSE = frozenset((
    "if", "to", "and", "or", "before", "first", "then", "for", "via", "with", "in", "on", "the", "a", "an", "it",
    "is", "not", "already", "using", "from", "into", "so", "as", "when", "where", "you", "inside", "this", "that",
    "again", "instead", "will", "should", "can",
))  # fmt: skip
_PATH = re.compile(r"\w+\+|\w+://|[./~$<{\[*]|[A-Za-z]:\\|\w+/")
_FILES = (".whl", ".txt", ".gz", ".zip", ".git", ".toml")
_ONE_NAME = ("uvx", "pipx run", "uv tool run")
_LONGEST = 20_000


def installs_in(command: str, *, in_prose: bool = False) -> Iterator[str]:
    """Names that a line of shell installs, as they are written, without versions, extras, options and paths.

    in_prose: the command stands in a comment or a sentence, which may go on after it.
    """
    if len(command) > _LONGEST:
        command = command[:_LONGEST].rpartition(" ")[0]
    for found in _COMMAND.finditer(command):
        names = list(_names(found[2], in_prose=in_prose))
        program = " ".join(found[1].split())
        if program.endswith("pipx inject"):
            names = names[1:]
        yield from names[:1] if program.endswith(_ONE_NAME) else names


def _names(arguments: str, *, in_prose: bool) -> Iterator[str]:
    words = iter(re.findall(r"\"[^\"]*\"|'[^']*'|\S+", arguments))
    for word in words:
        word = word.strip("\"'`")
        if word.startswith("#"):
            return
        if word.startswith("-"):
            if word in _WITH_VALUE:
                next(words, None)
            continue
        if in_prose and (word.lower().strip(".,:;()") in _PROSE or word.startswith("(")):
            return
        ends = in_prose and word.endswith((".", ",", ":", ")", "`"))
        word = word.rstrip("\\").strip() if not in_prose else word.rstrip(".,:;)`\\")
        if word == "@" or word.startswith("@"):
            next(words, None)
            continue
        is_path = _PATH.match(word) or word.endswith(_FILES)
        found = _REQUIREMENT.fullmatch(word)
        if found is None or (is_path and "@" not in word.partition("://")[0][1:]):
            continue
        if (
            not _PLACEHOLDER.fullmatch(found[1])
            and found[1].upper() not in ("PACKAGE", "NAME")
            and not found[1].isdigit()
        ):
            yield found[1]
        if ends:
            return


def commands_of(shell: str) -> Iterator[tuple[int, str]]:
    """The lines of a shell script with their numbers, those that go on in the next one joined."""
    lines = shell.split("\n")
    at = 0
    while at < len(lines):
        first, parts = at, [lines[at].strip("\r")]
        while parts[-1].endswith("\\") and at + 1 < len(lines):
            at += 1
            parts[-1] = parts[-1][:-1]
            parts.append(lines[at].strip("\r"))
        yield first + 1, " ".join(parts)
        at += 1


_SPAN = re.compile(r"(?<!`)`([^`\n]{4,400})`(?!`)")
_COMMENT = re.compile(r"#[ \t]*(.{0,80}?\b(?:pip[\d.]*|uv|uv pip|poetry|pipx)[ \t]+(?:install|add)\b.*)")


def commands_in_prose(text: str) -> Iterator[tuple[int, str]]:
    """Inline code and lines of their own that are install commands, with their lines in the text, from 1."""
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > _LONGEST:
            continue
        for found in _SPAN.finditer(line):
            yield number, found[1].strip()
        bare = line.strip().strip("*")
        if re.match(r"(?:[$>!%] *)?(?:pip3?|python3? -m pip) +install +\S", bare):
            yield number, bare


def commands_in_comments(code: str) -> Iterator[tuple[int, str]]:
    """Install commands in the comments of Python code, with their lines."""
    if "install" not in code and " add " not in code:
        return
    for number, line in enumerate(code.split("\n"), 1):
        if "#" in line and len(line) <= _LONGEST and (found := _COMMENT.search(line)):
            begin = re.search(
                r"(?:python[\d.]* -m )?(?:pip[\d.]*|uv|poetry|pipx)[ \t]+(?:pip +)?(?:install|add)\b.*", found[1]
            )
            if begin:
                yield number, begin[0]
