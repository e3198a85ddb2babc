"""`phichat check`: check the code in answers and in Python files."""

import io
import re
import sys
import tokenize
from datetime import UTC, date, datetime
from pathlib import Path

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.options import json_option
from phichat.cli.support.output import Output
from phichat.errors import CheckInputError, UsageError

MAX_INPUT_BYTES = 8 * 1024 * 1024
"""More than any answer or hand-written module."""

_STALE_AFTER_DAYS = 365


class _CheckCommand(click.Command):
    """Command whose help shows the date of the package lists; only the help reads them for that."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from phichat.codecheck.package_names import package_lists_date

        formatter.write_paragraph()
        formatter.write_text(_lists_notice(package_lists_date()))


@click.command(cls=_CheckCommand)
@click.argument("files", nargs=-1, metavar="[FILE|-]...")
@click.option("--python-version", "version", metavar="X.Y", help="Target Python version.")
@json_option
def check(files: tuple[str, ...], version: str | None, as_json: bool) -> int:
    """Check code: packages to install, names that do not exist, broken syntax.

    FILE is an answer in Markdown or a .py file; `-`, or nothing, reads an answer from stdin. The code
    is neither run nor imported. It is checked for --python-version, else for the lowest version that the
    file's project requires, else for the Python that phichat runs on. Exits with status 6 if anything is found.
    """
    if not files and sys.stdin is not None and sys.stdin.isatty():
        raise UsageError("Nothing to check", "Give a file or pipe in an answer")
    target = None if version is None else _parse_version(version)
    if as_json and len(files) > 1:
        raise UsageError("--json prints one document", "Give one file")
    texts = [(name, _read_input(name)) for name in files or ("-",)]

    from phichat.codecheck.checker import RUNNING_VERSION, check_answer, check_file, collect_warnings
    from phichat.codecheck.package_names import package_lists_date
    from phichat.codecheck.versions import find_project_version

    output, diagnostics = Output(), Diagnostics()
    has_warnings = has_packages = False
    for name, content in texts:
        file_target = target or (find_project_version(Path(name)) if name != "-" else None) or RUNNING_VERSION
        if Path(name).suffix in _PYTHON_SUFFIXES:
            report = check_file(_decode_source(content, name), target=file_target)
        else:
            report = check_answer(content.decode("utf-8-sig", errors="replace"), target=file_target)
        has_warnings = has_warnings or bool(report.warnings)
        has_packages = has_packages or bool(report.installs) or any(block.non_stdlib for block in report.blocks)
        if as_json:
            output.write_json(report.to_dict())
            continue
        for warning in sorted(collect_warnings(report), key=lambda one: one.line):
            output.write_text(f"{'stdin' if name == '-' else name}:{warning.line}: {warning.text}")
    list_date = package_lists_date() if has_packages else None
    if list_date and (not as_json or _is_stale(list_date)):
        diagnostics.print_notice(_lists_notice(list_date))
    return ExitCode.CODE_WARNING if has_warnings else ExitCode.DONE


_PYTHON_SUFFIXES = (".py", ".pyi", ".pyw")


def _lists_notice(list_date: date) -> str:
    limits = "; newer projects may be reported as unknown" if _is_stale(list_date) else ""
    return f"Package names are checked against lists from {list_date.isoformat()}{limits}."


def _is_stale(list_date: date) -> bool:
    return (datetime.now(UTC).date() - list_date).days > _STALE_AFTER_DAYS


def _parse_version(text: str) -> tuple[int, int]:
    from phichat.codecheck.versions import MAX_VERSION, MIN_VERSION

    match = re.fullmatch(r"3\.(\d{1,2})(?:\.\d+)?", text)
    if not match or not MIN_VERSION <= (version := (3, int(match[1]))) <= MAX_VERSION:
        known = f"{MIN_VERSION[0]}.{MIN_VERSION[1]} to {MAX_VERSION[0]}.{MAX_VERSION[1]}"
        raise UsageError(f"Python {text} isn't supported", f"Use --python-version {known}")
    return version


def _read_input(name: str) -> bytes:
    """Return the content of a file, or of stdin for `-`. Raises CheckInputError."""
    try:
        if name == "-":
            content = b"" if sys.stdin is None else sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                content = file.read(MAX_INPUT_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CheckInputError(f"{name} cannot be read ({reason})", "Give a Markdown answer or a .py file") from error
    if len(content) > MAX_INPUT_BYTES:
        raise CheckInputError(f"{name} is larger than {MAX_INPUT_BYTES:,} bytes", "Check only the relevant part")
    if name.endswith(".ipynb"):
        raise CheckInputError(
            f"{name} is a notebook", f"Convert it with `jupyter nbconvert --to script {name}` and check the result"
        )
    return content


def _decode_source(content: bytes, name: str) -> str:
    """Decode Python source in the encoding that its first lines declare. Raises CheckInputError."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        return content.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        raise CheckInputError(f"{name} doesn't match its declared encoding", "Save it as UTF-8") from error
