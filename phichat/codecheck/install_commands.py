"""Distributions that commands in an answer install.

conda is left out: its packages come from another index with other names.
"""

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
_OPTIONS_WITH_VALUE = frozenset((
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
_PROSE_WORDS = frozenset((
    "if", "to", "and", "or", "before", "first", "then", "for", "via", "with", "in", "on", "the", "a", "an", "it",
    "is", "not", "already", "using", "from", "into", "so", "as", "when", "where", "you", "inside", "this", "that",
    "again", "instead", "will", "should", "can",
))  # fmt: skip
_PATH_PATTERN = re.compile(r"\w+\+|\w+://|[./~$<{\[*]|[A-Za-z]:\\|\w+/")
_FILE_SUFFIXES = (".whl", ".txt", ".gz", ".zip", ".git", ".toml")
_SINGLE_PACKAGE_PROGRAMS = ("uvx", "pipx run", "uv tool run")
_MAX_LINE_CHARS = 20_000


def find_installs(command: str, *, in_prose: bool = False) -> Iterator[str]:
    """Yield the names that a shell line installs, as written, without versions, extras, options and paths.

    in_prose: the command is in a comment or a sentence, which may continue after it.
    """
    if len(command) > _MAX_LINE_CHARS:
        command = command[:_MAX_LINE_CHARS].rpartition(" ")[0]
    for match in _COMMAND.finditer(command):
        names = list(_parse_package_names(match[2], in_prose=in_prose))
        program = " ".join(match[1].split())
        if program.endswith("pipx inject"):
            names = names[1:]
        yield from names[:1] if program.endswith(_SINGLE_PACKAGE_PROGRAMS) else names


def _parse_package_names(arguments: str, *, in_prose: bool) -> Iterator[str]:
    argument_iterator = iter(re.findall(r"\"[^\"]*\"|'[^']*'|\S+", arguments))
    for argument in argument_iterator:
        argument = argument.strip("\"'`")
        if argument.startswith("#"):
            return
        if argument.startswith("-"):
            if argument in _OPTIONS_WITH_VALUE:
                next(argument_iterator, None)
            continue
        if in_prose and (argument.lower().strip(".,:;()") in _PROSE_WORDS or argument.startswith("(")):
            return
        is_last = in_prose and argument.endswith((".", ",", ":", ")", "`"))
        argument = argument.rstrip("\\").strip() if not in_prose else argument.rstrip(".,:;)`\\")
        if argument.startswith("@"):
            next(argument_iterator, None)
            continue
        is_path = _PATH_PATTERN.match(argument) or argument.endswith(_FILE_SUFFIXES)
        match = _REQUIREMENT.fullmatch(argument)
        if match is None or (is_path and "@" not in argument.partition("://")[0][1:]):
            continue
        if not (_PLACEHOLDER.fullmatch(match[1]) or match[1].upper() == "NAME" or match[1].isdigit()):
            yield match[1]
        if is_last:
            return


def iter_commands(shell: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a shell script with their numbers, continued lines joined."""
    lines = [line.strip("\r") for line in shell.split("\n")]
    parts: list[str] = []
    for number, line in enumerate(lines, 1):
        parts.append(line)
        if line.endswith("\\") and number < len(lines):
            parts[-1] = line[:-1]
            continue
        yield number + 1 - len(parts), " ".join(parts)
        parts = []


_INLINE_CODE = re.compile(r"(?<!`)`([^`\n]{4,400})`(?!`)")
_COMMENTED_INSTALL = re.compile(r"#[ \t]*(.{0,80}?\b(?:pip[\d.]*|uv|uv pip|poetry|pipx)[ \t]+(?:install|add)\b.*)")


def find_commands_in_prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield inline code, and install commands on lines of their own, with their lines in the text from 1."""
    for line_number, line in enumerate(text.split("\n"), 1):
        if len(line) > _MAX_LINE_CHARS:
            continue
        for match in _INLINE_CODE.finditer(line):
            yield line_number, match[1].strip()
        stripped = line.strip().strip("*")
        if re.match(r"(?:[$>!%] *)?(?:pip3?|python3? -m pip) +install +\S", stripped):
            yield line_number, stripped


def find_commands_in_comments(code: str) -> Iterator[tuple[int, str]]:
    """Yield install commands in the comments of Python code, with their lines."""
    if "install" not in code and " add " not in code:
        return
    for line_number, line in enumerate(code.split("\n"), 1):
        if "#" in line and len(line) <= _MAX_LINE_CHARS and (comment_match := _COMMENTED_INSTALL.search(line)):
            match = re.search(
                r"(?:python[\d.]* -m )?(?:pip[\d.]*|uv|poetry|pipx)[ \t]+(?:pip +)?(?:install|add)\b.*",
                comment_match[1],
            )
            if match:
                yield line_number, match[0]
