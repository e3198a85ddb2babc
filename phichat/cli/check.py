"""`phichat check`: the code in answers and in files of Python."""

from __future__ import annotations

import io
import re
import sys
import tokenize
from datetime import UTC, date, datetime
from pathlib import Path

import click

from phichat.cli.diagnostics import Diagnostics, ExitCode
from phichat.cli.output import Output
from phichat.errors import CheckInputError, UsageError

MOST_BYTES = 8 * 1024 * 1024
"""No answer and no module that people write is longer."""

_OLD_DAYS = 365


class _Check(click.Command):
    """Tells in its help how old the lists are, which takes reading them."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from phichat.codecheck.names import lists_date

        formatter.write_paragraph()
        formatter.write_text(_told(lists_date()))


@click.command(cls=_Check)
@click.argument("files", nargs=-1, metavar="[FILE|-]...")
@click.option("--python-version", "version", metavar="X.Y", help="Check for that Python.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def check(files: tuple[str, ...], version: str | None, as_json: bool) -> int:
    """Check code: packages to install, names that do not exist, broken syntax.

    FILE is an answer in Markdown or a .py file; `-`, or nothing, reads an answer from stdin. The code
    is neither run nor imported. It is checked for --python-version, else for the lowest version that the
    file's project asks for, else for the Python that phichat runs on. Exits 6 when there is something to say.
    """
    if not files and sys.stdin is not None and sys.stdin.isatty():
        raise UsageError("There is nothing to check", "name a file, or pipe an answer in")
    target = None if version is None else _version(version)
    if as_json and len(files) > 1:
        raise UsageError("--json prints one document", "name one file")
    texts = [(name, _read(name)) for name in files or ("-",)]

    from phichat.codecheck.names import lists_date
    from phichat.codecheck.report import RUNNING, check_file, check_text, remarks_on
    from phichat.codecheck.versions import project_version

    output, diagnostics = Output(), Diagnostics()
    warned = named = False
    for name, content in texts:
        wanted = target or (project_version(Path(name)) if name != "-" else None) or RUNNING
        if Path(name).suffix in _PYTHON_FILES:
            report = check_file(_source(content, name), target=wanted)
        else:
            report = check_text(content.decode("utf-8-sig", errors="replace"), target=wanted)
        warned = warned or bool(report.warnings)
        named = named or bool(report.installs) or any(block.non_stdlib for block in report.blocks)
        if as_json:
            output.document(report.document())
            continue
        for remark in sorted(remarks_on(report), key=lambda one: one.line):
            output.text(f"{'stdin' if name == '-' else name}:{remark.line}: {remark.text}")
    made = lists_date() if named else None
    if made and (not as_json or _is_old(made)):
        diagnostics.notice(_told(made))
    return ExitCode.CODE_WARNING if warned else ExitCode.DONE


_PYTHON_FILES = (".py", ".pyi", ".pyw")


def _told(made: date) -> str:
    limits = ", so projects that became popular since are unknown to them" if _is_old(made) else ""
    return f"Names of packages are judged by lists of {made.isoformat()}{limits}."


def _is_old(made: date) -> bool:
    return (datetime.now(UTC).date() - made).days > _OLD_DAYS


def _version(written: str) -> tuple[int, int]:
    from phichat.codecheck.versions import NEWEST, OLDEST

    found = re.fullmatch(r"3\.(\d{1,2})(?:\.\d+)?", written)
    if not found or not OLDEST <= (version := (3, int(found[1]))) <= NEWEST:
        known = f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"
        raise UsageError(f"There is nothing known of Python {written!r}", f"give one of {known} to --python-version")
    return version


def _read(name: str) -> bytes:
    """The content of a file, or of stdin for `-`. Raises CheckInputError."""
    try:
        if name == "-":
            content = b"" if sys.stdin is None else sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as why:
        reason = why.strerror if isinstance(why, OSError) else str(why)
        raise CheckInputError(f"{name} cannot be read ({reason})", "name an answer in Markdown or a .py file") from why
    if len(content) > MOST_BYTES:
        raise CheckInputError(f"{name} is larger than {MOST_BYTES:,} bytes", "check only the part that matters")
    if name.endswith(".ipynb"):
        raise CheckInputError(
            f"{name} is a notebook", f"convert it with `jupyter nbconvert --to script {name}` and check what comes out"
        )
    return content


def _source(content: bytes, name: str) -> str:
    """Python source in the encoding that its first lines declare. Raises CheckInputError."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        return content.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as why:
        raise CheckInputError(f"{name} is no text in the encoding that it declares", "save it as UTF-8") from why
